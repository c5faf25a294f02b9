"""What the package knows about language models that read cells as soft tokens."""

from .composite import Composite

COMPOSITE = Composite(
    name="cell_text",
    title="Cell-text model",
    paper=(
        "Liu et al. Visual instruction tuning. NeurIPS (2023), the design; Schaefer et al. Multimodal learning "
        "enables chat-based exploration of single-cell data. Nature Biotechnology (2025), its use for cells"
    ),
    config="CellTextConfig",
    auto_classes={
        "AutoModel": "CellTextModel",
        "AutoModelForMultimodalLM": "CellTextForConditionalGeneration",
        "AutoModelForImageTextToText": "CellTextForConditionalGeneration",
    },
    models=("CellTextModel", "CellTextForConditionalGeneration"),
    processor="CellTextProcessor",
)
