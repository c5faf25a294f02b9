"""What the package knows about CellPLM."""

from .family import Family

FAMILY = Family(
    name="cellplm",
    title="CellPLM",
    paper=(
        "Wen et al. CellPLM: Pre-training of Cell Language Model Beyond Single Cells. ICLR 2024. "
        "doi:10.1101/2023.10.03.560734"
    ),
    repository="OmicsML/CellPLM",
    code_license="BSD-2-Clause",
    weights_license="other",
    weights_license_note="The authors name no licence for the weights; their code is under BSD-2-Clause.",
    weights_license_name="none-stated",
    redistributable=False,
    sizes={
        "20230926_85M": "4 layers over cells, width 1024, embeddings of 512 from a mixture of 16; 19,374 genes",
        "20231027_85M": "the same with embeddings from one Gaussian",
    },
    source_layout=(
        "`<prefix>.config.json` beside `<prefix>.best.ckpt`, or a folder with one such pair; also of a fine-tuned "
        "model"
    ),
    weights_from=("linked in the README of `OmicsML/CellPLM`, two files each (`*.config.json`, `*.best.ckpt`)"),
    encoding={
        "encoding": "continuous",
        "expects": "counts",
        "add_cls": False,
    },
    published_input="Raw counts, with the cells of one sample together.",
    published_tokens=(
        "The counts of the model's genes as they are, and for a sample the matrix of its cells and genes. The "
        "model takes `ln(1 + count)` of them, not scaled to the cell's total."
    ),
    config="CellPLMConfig",
    auto_classes={
        "AutoModel": "CellPLMModel",
        "AutoModelForPreTraining": "CellPLMForMaskedExpression",
        "AutoModelForSequenceClassification": "CellPLMForSequenceClassification",
    },
    models=(
        "CellPLMModel",
        "CellPLMForMaskedExpression",
        "CellPLMForImputation",
        "CellPLMForSequenceClassification",
        "CellPLMForSampleClassification",
        "CellPLMForExpressionRegression",
    ),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    # with `encoder_type` mlp or none
    lora_without_attention=("embeddings.linear", "block.linear"),
    norm_modules=("norm1", "norm2", "norm"),
    told_by_encoding={"input_encoding": "encoding"},
    classification_head=("latent", "classifier"),
    embed_overrides={"stochastic_latent": False},
    processor="SampleProcessor",
    processor_module="sclm_hf.tokenization.processing_sample",
    special_tokens=(),
    special_verbs=("denoise", "impute"),
    objectives=("masked_samples",),
    tiny={
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "cell_embedding_size": 16,
        "latent_hidden_size": 24,
        "num_clusters": 3,
        "decoder_hidden_size": 24,
        "head_hidden_size": 24,
        "num_batches": 0,
        "num_datasets": 0,
    },
)
