"""What cards say about stock language models that read cells as text; transformers registers and opens them itself."""

from .composite import Composite

LANGUAGE_MODEL = Composite(
    name="language_model",
    title="Language model that reads cells as text",
    paper=(
        "Levine et al. Cell2Sentence: teaching large language models the language of biology. ICML (2024), the design"
    ),
    config="",
    auto_classes={},
    models=(),
    processor="",
    verbs=("annotate",),
)
