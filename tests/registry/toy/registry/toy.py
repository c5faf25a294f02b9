"""What the package knows about the toy."""

from .family import Family

FAMILY = Family(
    name="toy",
    title="Toy",
    paper="Nobody. A model for tests. 2026.",
    repository="nowhere",
    code_license="Apache-2.0",
    weights_license="apache-2.0",
    weights_license_note="Made for tests.",
    redistributable=True,
    sizes={"only": "one layer"},
    encoding={"encoding": "bins", "expects": "counts", "n_bins": 5},
    published_input="Raw counts.",
    published_tokens="Five bins of the expressed genes, after `<cls>`.",
    config="ToyConfig",
    auto_classes={
        "AutoModel": "ToyModel",
        "AutoModelForPreTraining": "ToyForMaskedExpression",
        "AutoModelForSequenceClassification": "ToyForSequenceClassification",
    },
    models=("ToyModel", "ToyForMaskedExpression", "ToyForSequenceClassification"),
    lora_target_modules=("mix",),
    objectives=("masked",),
    masking={"masked": {"mask_ratio": 0.5}},
    tiny={"hidden_size": 8},
)
