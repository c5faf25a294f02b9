"""Tiny checkpoints of every family, for tests and examples: made in a moment, random, and of no other use."""

from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigurationError
from ..logging import quiet_transformers
from ..registry import Family, get_family
from .kinds import AUTO_CLASSES

MAX_LENGTH = 64
"""Most tokens of a cell, where the published encoding has a limit above it."""

LABELS = ("B cell", "Monocyte", "T cell")

_GENES = (
    "ACTB B2M CCL5 CD14 CD19 CD2 CD27 CD3D CD3E CD4 CD40LG CD69 CD74 CD79A CD79B CD8A CD8B CST3 CTSS CTSW FCER1A "
    "FCER1G FCGR3A FCN1 FOS FTH1 FTL GNLY GZMA GZMB GZMH GZMK HLA-A HLA-B HLA-C HLA-DPA1 HLA-DPB1 HLA-DQA1 HLA-DRA "
    "HLA-DRB1 IL32 IL7R JUN KLRB1 LEF1 LST1 LTB LYZ MALAT1 MS4A1 MS4A7 NKG7 PF4 PPBP PRF1 S100A4 S100A8 S100A9 SELL "
    "TCF7 TMSB4X TPT1 TYROBP VIM"
)
"""Some genes of blood cells."""


def make_tiny_checkpoint(
    family: str,
    folder: str | Path,
    *,
    task: str = "embed",
    genes: Iterable[str] | None = None,
    seed: int = 0,
) -> Path:
    """Save a tiny random model of `family` with its processor, ready for `Auto*` and for every command.

    Args:
        family: name of the family, as `sclm-hf models` lists it.
        folder: folder to write.
        task: `"embed"` or `"perturb"` (the bare model), `"annotate"` (with a classifier for three labels) or
            `"pretrain"` (with the head of pre-training).
        genes: symbols that the model knows; some genes of blood cells unless given.
        seed: seed of the weights.

    Returns:
        The folder.

    Raises:
        ConfigurationError: there is no such family or task.
    """
    import torch

    from .new_models import new_config, new_model

    known = get_family(family)
    if task not in AUTO_CLASSES:
        raise ConfigurationError(f"`task` must be one of {', '.join(map(repr, AUTO_CLASSES))}, got {task!r}.")
    processor = make_processor(family, _GENES.split() if genes is None else list(genes), **_shortened(known))
    config = new_config(family, processor, known.tiny)
    if task == "annotate":
        config.id2label = dict(enumerate(LABELS))
        config.label2id = {label: number for number, label in enumerate(LABELS)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = new_model(config, task)
    folder = Path(folder)
    with quiet_transformers():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return folder


def make_processor(family: str, genes: list[str], **changes):
    """A processor with the published encoding of `family` for `genes`; what else it needs, it makes up.

    Args:
        family: name of the family.
        genes: symbols.
        **changes: to the parameters of the encoding.
    """
    from ..tokenization.feature_extraction_expression import ExpressionFeatureExtractor
    from .new_models import new_tokenizer, processor_class

    kind = processor_class(family)
    if hasattr(kind, "example"):
        return kind.example(genes, **(get_family(family).encoding | changes))
    extractor = ExpressionFeatureExtractor.for_family(family, **changes)
    if "gene_means" in extractor.value_encoding.parameters and extractor.gene_means is None:
        extractor = extractor.changed(gene_means=dict.fromkeys(genes, 1.0), gene_deviations=dict.fromkeys(genes, 1.0))
    return kind(extractor, new_tokenizer(family, genes))


def _shortened(family: Family) -> dict[str, int]:
    limits = {"max_length": MAX_LENGTH, "n_draws": MAX_LENGTH // 2}
    return {
        name: min(family.encoding[name], most)
        for name, most in limits.items()
        if family.encoding.get(name) is not None
    }
