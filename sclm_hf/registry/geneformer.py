"""What the package knows about Geneformer."""

from .family import Family

FAMILY = Family(
    name="geneformer",
    title="Geneformer",
    paper=(
        "Theodoris et al. Transfer learning enables predictions in network biology. Nature 618, 616-624 (2023). "
        "doi:10.1038/s41586-023-06139-9"
    ),
    repository="ctheodoris/Geneformer (huggingface.co)",
    code_license="Apache-2.0",
    weights_license="apache-2.0",
    weights_license_note="The licence of the authors' repository on the Hub, which holds code and weights.",
    redistributable=True,
    sizes={
        "V1-10M (gf-6L-30M-i2048)": "6 layers, width 256, 4 heads, 25,424 genes, 2,048 ranks; 30 million cells",
        "V1 gf-12L-30M-i2048": "12 layers, width 512, 8 heads; otherwise as V1-10M",
        "V2 gf-12L-95M-i4096": "12 layers, width 512, 8 heads, 4,096 ranks, `<cls>` and `<eos>`; 95 million cells",
        "V2 gf-20L-95M-i4096": "20 layers, width 896, 14 heads; otherwise as gf-12L-95M",
        "V2-104M": "12 layers, width 768, 12 heads, 20,275 tokens, 4,096 ranks; 104 million cells",
        "V2-104M_CLcancer": "V2-104M, further trained on cancer cells",
        "V2-316M": "18 layers, width 1152, 18 heads; otherwise as V2-104M",
    },
    source_layout=(
        "a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, pre-trained or fine-tuned; "
        "the pickled dictionaries `token_dictionary*.pkl` and `gene_median_dictionary*.pkl` (and "
        "`ensembl_mapping_dict*.pkl`) in it, or in `geneformer/` in it, beside it or above"
    ),
    weights_from=(
        "in `ctheodoris/Geneformer` on the Hub, a folder for each model and the dictionaries in `geneformer/`"
    ),
    encoding={
        "encoding": "rank",
        "expects": "counts",
        "max_length": 4096,
        "truncation": "head",
        "add_cls": True,
        "add_eos": True,
        "target_sum": 10_000.0,
    },
    published_input="Raw counts. A cell's total is that of all its genes, including those outside the dictionary.",
    published_tokens=(
        "Genes in descending order of `count / total × 10,000 / median of the gene`, where the median is that of "
        "the gene's non-zero values in the pre-training corpus (`gene_medians`, which a converted checkpoint "
        "brings along). V2 puts `<cls>` first and `<eos>` last and has 4,096 tokens; V1 is `max_length=2048, "
        "add_cls=False, add_eos=False`."
    ),
    special_verbs=(
        "explain",
        "perturb",
    ),
    config="GeneformerConfig",
    auto_classes={
        "AutoModel": "GeneformerModel",
        "AutoModelForPreTraining": "GeneformerForMaskedLM",
        "AutoModelForMaskedLM": "GeneformerForMaskedLM",
        "AutoModelForSequenceClassification": "GeneformerForSequenceClassification",
        "AutoModelForTokenClassification": "GeneformerForTokenClassification",
    },
    models=(
        "GeneformerModel",
        "GeneformerForMaskedLM",
        "GeneformerForSequenceClassification",
        "GeneformerForTokenClassification",
        "GeneformerForMultiTaskClassification",
    ),
    built_on="bert",
    told_by_encoding={"has_special_tokens": "add_cls"},
    lora_target_modules=("query", "key", "value", "attention.output.dense"),
    key_value_modules=("key", "value"),
    feedforward_modules=("output.dense",),
    norm_modules=("LayerNorm",),
    classification_head=("pooler", "classifier"),
    embed_overrides={"attention_pooling_includes_padding": False},
    special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"),
    objectives=("masked_genes",),
    # its collator knows only <pad> and <mask> as special
    masking={"masked_genes": {"mask_special_tokens": True}},
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
)
