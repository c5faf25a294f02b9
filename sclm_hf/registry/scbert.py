"""What the package knows about scBERT."""

from .family import Family

FAMILY = Family(
    name="scbert",
    title="scBERT",
    paper=(
        "Yang et al. scBERT as a large-scale pretrained deep language model for cell type annotation of "
        "single-cell RNA-seq data. Nature Machine Intelligence 4, 852-866 (2022). doi:10.1038/s42256-022-00534-z"
    ),
    repository="TencentAILabHealthcare/scBERT",
    code_license="GPL-3.0",
    weights_license="other",
    weights_license_note="The authors name no licence for the weights; their code is under GPL-3.0.",
    weights_license_name="none-stated",
    redistributable=False,
    sizes={"panglao": "6 layers, width 200, 10 heads of 64, 16,906 genes; 1.1 million human cells of PanglaoDB"},
    source_layout=(
        "a folder with one `.pth` file and `genes.txt`, the `var_names` of the release's `panglao_10000.h5ad`, "
        "one per line; for a fine-tuned model also `labels.txt`"
    ),
    weights_from=(
        "linked in the README of `TencentAILabHealthcare/scBERT`, with `panglao_10000.h5ad`, which names the genes"
    ),
    encoding={
        "encoding": "log_bins",
        "expects": "counts",
        "n_bins": 6,
        "target_sum": 10_000.0,
        "include_zero_genes": True,
        "add_cls": True,
        "cls_value": 0.0,
        "pad_value": 6.0,
        "mask_value": 6.0,
    },
    published_input=(
        "Raw counts of cells that express at least 200 of the model's genes (scanpy's `filter_cells`, left to the "
        "user)."
    ),
    published_tokens=(
        "All 16,906 genes in their order, with those that the data lack as not expressed, then `<cls>` with bin 0."
        " Bins are `log2(1 + count / total × 10,000)`, where the total is over the model's genes, cut down to "
        "whole numbers of at most 5."
    ),
    config="ScBERTConfig",
    auto_classes={
        "AutoModel": "ScBERTModel",
        "AutoModelForPreTraining": "ScBERTForMaskedExpression",
        "AutoModelForMaskedLM": "ScBERTForMaskedExpression",
        "AutoModelForSequenceClassification": "ScBERTForSequenceClassification",
    },
    models=("ScBERTModel", "ScBERTForMaskedExpression", "ScBERTForSequenceClassification"),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    norm_modules=("norm1", "norm2", "norm"),
    embed_overrides={"key_maximum": "sequence"},
    special_tokens=("<cls>", "<pad>"),
    genes_first=True,
    objectives=("masked",),
    masking={"masked": {"mask_ratio": 0.15, "mask_zeros": False, "replace_ratio": 0.9, "rounding": "up"}},
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
        "intermediate_size": 48,
    },
)
