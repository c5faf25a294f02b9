"""What the package knows about linear models."""

from .family import Family

FAMILY = Family(
    name="linear",
    title="Linear",
    paper=(
        "Logistic regression on z-scored counts, as CellTypist trains it: Domínguez Conde et al. Cross-tissue immune "
        "cell analysis reveals tissue-specific features in humans. Science 376, eabl5197 (2022). "
        "doi:10.1126/science.abl5197"
    ),
    repository="no original: written for this package",
    code_license="Apache-2.0",
    weights_license="other",
    weights_license_note="There are no released weights; those fitted here have the licence that their cells allow.",
    weights_license_name="none-stated",
    redistributable=True,
    sizes={"any": "one number per gene and label, or 50 loadings per gene; fitted in seconds by `sclm-hf finetune`"},
    encoding={
        "encoding": "zscored",
        "expects": "counts",
        "add_cls": False,
        "pad_value": 0.0,
    },
    published_input="Raw counts.",
    published_tokens=(
        "Every gene that the data set measures, with the z-score of its log-normalised count, clipped at 10. A gene "
        "that is not measured counts as its mean."
    ),
    config="LinearConfig",
    auto_classes={
        "AutoModel": "LinearModel",
        "AutoModelForPreTraining": "LinearForSequenceClassification",
        "AutoModelForSequenceClassification": "LinearForSequenceClassification",
    },
    models=("LinearModel", "LinearForSequenceClassification"),
    lora_target_modules=(),
    key_value_modules=(),
    feedforward_modules=(),
    norm_modules=(),
    cells="Of the species, tissue and labels that it was fitted on.",
    special_tokens=("<pad>",),
    is_fitted=True,
    no_objective="its weights are learnt from labels, which takes seconds",
    tiny={"hidden_size": 5},
)
