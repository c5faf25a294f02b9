"""Every run leaves a manifest of its cells beside the weights."""

from ..corpora.contents import Contents
from ..corpora.training_manifest import TrainingManifest, read_manifest
from ..opening.files import ADAPTER_CONFIG
from .loop import TrainingResult


def write_manifest(result: TrainingResult, corpus: Contents, start_from: str | None) -> None:
    """Write the cells of `corpus`, and those of the model that training started from, into the folders of the result.

    Args:
        result: of the run; other processes than the main one write nothing.
        corpus: the cells trained on.
        start_from: folder or repository of that model, or None.

    Raises:
        CheckpointError: the manifest of that model is damaged.
        SclmError: the manifest cannot be written.
    """
    if not result.is_main_process:
        return
    manifest = TrainingManifest.of(corpus).with_cells_of(read_manifest(start_from) if start_from else None)
    manifest.save(result.output_dir)
    adapter = result.output_dir / "adapter"
    if (adapter / ADAPTER_CONFIG).exists():
        manifest.save(adapter)
