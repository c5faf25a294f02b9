"""What the package knows about scFoundation."""

from .family import Family

FAMILY = Family(
    name="scfoundation",
    title="scFoundation",
    paper=(
        "Hao et al. Large-scale foundation model on single-cell transcriptomics. Nature Methods 21, 1481-1491 "
        "(2024). doi:10.1038/s41592-024-02305-7"
    ),
    repository="biomap-research/scFoundation",
    code_license="Apache-2.0",
    weights_license="other",
    weights_license_note=(
        "The authors' MODEL_LICENSE: non-commercial research only. Their code is Apache-2.0, the weights are not."
    ),
    weights_license_name="scfoundation-non-commercial",
    weights_license_link="https://github.com/biomap-research/scFoundation/blob/main/MODEL_LICENSE",
    redistributable=False,
    sizes={
        "models.ckpt: cell": "12 layers, width 768, 12 heads, 19,264 genes; for cell embeddings",
        "models.ckpt: gene": "the same; its decoder (6 layers, width 512) embeds genes; also to fine-tune",
        "models.ckpt: rde": "the same; read-depth enhancement",
    },
    source_layout=(
        "a folder with `models.ckpt` and `OS_scRNA_gene_index.19264.tsv`; gives three models, `cell`, `gene` and `rde`"
    ),
    weights_from=(
        "linked in the README of `biomap-research/scFoundation` (`models.ckpt`); the table of genes is in its `model/`"
    ),
    encoding={
        "encoding": "depth",
        "expects": "counts",
        "target_depth": "t4",
        "target_sum": 10_000.0,
        "add_cls": False,
        "pad_value": 103.0,
        "mask_value": 102.0,
    },
    published_input=(
        'Raw counts (the original\'s `pre_normalized` F). `expects="normalized"` takes values that are log-'
        "normalised already, with their sum for the total (T, a quirk of the original) or with the totals that "
        '`encode` is given (A). Bulk samples are normalised, with `target_depth="f1"` (bulk F) or `"sum"` (bulk '
        "T)."
    ),
    published_tokens=(
        "The expressed ones of its 19,264 genes, with those that the data lack as not expressed, and `ln(1 + count"
        " / total × 10,000)` of each, where the total is over the model's genes; then `<T>` with the log10 of the "
        'total asked for and `<S>` with the log10 of the cell\'s own. By default (`"t4"`, as in the original) cells'
        " are embedded as if 10,000 counts were asked for."
    ),
    special_verbs=("denoise", "explain", "impute", "perturb"),
    config="ScFoundationConfig",
    auto_classes={
        "AutoModel": "ScFoundationModel",
        "AutoModelForPreTraining": "ScFoundationForMaskedExpression",
        "AutoModelForSequenceClassification": "ScFoundationForSequenceClassification",
    },
    models=(
        "ScFoundationModel",
        "ScFoundationForMaskedExpression",
        "ScFoundationForSequenceClassification",
    ),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    norm_modules=("norm1", "norm2", "norm"),
    embed_overrides={"key_maximum": "sequence", "pooling_includes_padding": False},
    special_tokens=("<T>", "<S>", "<pad>"),
    genes_first=True,
    objectives=("read_depth",),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "decoder_hidden_size": 24,
        "num_decoder_layers": 2,
        "num_decoder_attention_heads": 4,
        "decoder_head_dim": 8,
        "classifier_hidden_size": 16,
        "classifier_pad_position_id": None,
    },
)
