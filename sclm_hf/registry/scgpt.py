"""What the package knows about scGPT."""

from .family import Family

FAMILY = Family(
    name="scgpt",
    title="scGPT",
    paper=(
        "Cui et al. scGPT: toward building a foundation model for single-cell multi-omics using generative AI. "
        "Nature Methods 21, 1470-1480 (2024). doi:10.1038/s41592-024-02201-0"
    ),
    repository="bowang-lab/scGPT",
    code_license="MIT",
    weights_license="mit",
    weights_license_note="The licence of the authors' repository; the weight files carry none of their own.",
    redistributable=True,
    sizes={
        "whole-human": "12 layers, width 512, 8 heads, 60,697 genes; 33 million normal human cells",
        "brain, blood, heart, lung, kidney, pan-cancer, continual": "the same architecture, other cells",
    },
    source_layout="a folder with `best_model.pt`, `args.json` and `vocab.json`",
    weights_from=(
        "in the folders that the model zoo of the README of `bowang-lab/scGPT` links to (`args.json`, "
        "`best_model.pt`, `vocab.json` each), and in `tdc/scGPT` on the Hub, which others uploaded"
    ),
    encoding={
        "encoding": "bins",
        "expects": "counts",
        "n_bins": 51,
        "max_length": 1200,
        "truncation": "sample",
        "add_cls": True,
        "cls_value": -2.0,
        "pad_value": -2.0,
        "mask_value": -1.0,
    },
    published_input=(
        "Raw counts (pre-training and embedding). The authors' fine-tuning examples normalise to 10,000 and take "
        "`log1p` first, which leaves the order within a cell, and so the bins, as they are but for ties and "
        "rounding."
    ),
    published_tokens=(
        "51 quantile bins over the expressed genes of the cell, after `<cls>` with value -2 (the fine-tuning "
        "examples give `<cls>` the value 0: `cls_value=0.0`). Cells with more than 1,199 genes keep a random "
        "subset."
    ),
    special_verbs=("explain", "perturb", "predict_perturbation"),
    perturbation_model="ScGPTForPerturbation",
    perturbation_encoding={
        "encoding": "continuous",
        "expects": "normalized",
        "add_cls": False,
        "include_zero_genes": True,
    },
    config="ScGPTConfig",
    auto_classes={
        "AutoModel": "ScGPTModel",
        "AutoModelForPreTraining": "ScGPTForMaskedExpression",
        "AutoModelForSequenceClassification": "ScGPTForSequenceClassification",
    },
    models=("ScGPTModel", "ScGPTForMaskedExpression", "ScGPTForSequenceClassification", "ScGPTForPerturbation"),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    embed_overrides={"pooling_includes_padding": False, "dsbn_batch_domain": "cell"},
    objectives=("generative", "masked"),
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
)
