"""What the package knows about dual encoders of cells and text."""

from .composite import Composite

COMPOSITE = Composite(
    name="cell_text_dual_encoder",
    title="Cell-text dual encoder",
    paper=(
        "Radford et al. Learning transferable visual models from natural language supervision. ICML (2021), the "
        "objective; Zhao et al. LangCell: language-cell pre-training for cell identity understanding. ICML (2024), "
        "its use for cells and the matching head"
    ),
    config="CellTextDualEncoderConfig",
    auto_classes={"AutoModel": "CellTextDualEncoderModel"},
    models=("CellTextDualEncoderModel",),
    processor="CellTextDualEncoderProcessor",
    verbs=("annotate", "embed", "search"),
    without_us=(
        '`model(**processor(cells, ["it makes antibodies"], return_tensors="pt")).logits` compares the cells of an '
        "AnnData of raw counts with texts."
    ),
    instead_of_heads="To annotate cells, describe their types: give `labels` (`--labels`).",
)
