"""Every run leaves a manifest of its cells beside the weights."""

from ..corpora.contents import Contents
from ..corpora.training_manifest import CHOSEN, TrainingManifest, read_manifest
from ..opening.files import ADAPTER_CONFIG
from .loop import TrainingResult


def write_manifest(
    result: TrainingResult,
    corpus: Contents,
    start_from: str | None,
    *,
    chosen: Contents | None = None,
    role: str = CHOSEN,
) -> None:
    """Write the cells of `corpus`, and those of the model that training started from, into the folders of the result.

    Args:
        result: of the run; other processes than the main one write nothing.
        corpus: the cells trained on.
        start_from: folder or repository of that model, or None.
        chosen: cells that were held out and chose the checkpoint, or how much the model counts beside others.
        role: of these cells; `TRAINED` where partners that are saved with the model learned from them as well.

    Raises:
        CheckpointError: the manifest of that model is damaged.
        SclmError: the manifest cannot be written.
    """
    if result.is_main_process:
        parts = None if chosen is None else TrainingManifest.of(chosen, role)
        save_manifest(result, TrainingManifest.of(corpus), start_from, chosen=parts)


def save_manifest(
    result: TrainingResult,
    trained: TrainingManifest,
    start_from: str | None,
    *,
    chosen: TrainingManifest | None = None,
) -> None:
    """Write cells into the folders of the result of a run; arguments and errors are those of [`write_manifest`]."""
    manifest = trained.with_cells_of(read_manifest(start_from) if start_from else None)
    if chosen is not None:
        manifest = chosen.with_cells_of(manifest)
    manifest.save(result.output_dir)
    adapter = result.output_dir / "adapter"
    if (adapter / ADAPTER_CONFIG).exists():
        manifest.save(adapter)
