"""What the package knows about iSEEEK."""

from .family import Family

FAMILY = Family(
    name="iseeek",
    title="iSEEEK",
    paper=(
        "Shen et al. A universal approach for integrating super large-scale single-cell transcriptomes by "
        "exploring gene rankings. Briefings in Bioinformatics 23, bbab573 (2022). doi:10.1093/bib/bbab573"
    ),
    repository="lixiangchun/iSEEEK",
    code_license="Apache-2.0",
    weights_license="apache-2.0",
    weights_license_note="The licence of the authors' repository; the weight files carry none of their own.",
    redistributable=True,
    sizes={"transcriptome-iseeek": "width 576; 126 ranks between `[CLS]` and `[SEP]`"},
    source_layout=(
        "a folder with `config.json`, `model.safetensors` or `pytorch_model.bin`, and `tokenizer.json` or "
        "`iSEEEK_vocab.pkl`; not the TorchScript export"
    ),
    weights_from=("linked in the README of `lixiangchun/iSEEEK`"),
    encoding={
        "encoding": "rank",
        "expects": "any",
        "max_length": 128,
        "truncation": "head",
        "add_cls": True,
        "add_eos": True,
    },
    published_input=(
        "Rankings of genes; how they were made is not published. Here any expression that is not negative will do,"
        " because only the order within a cell counts."
    ),
    published_tokens=(
        "The 126 most expressed genes, equal ones in the order of their ids, between `[CLS]` and `[SEP]`."
    ),
    special_verbs=(
        "explain",
        "perturb",
    ),
    config="ISEEEKConfig",
    auto_classes={
        "AutoModel": "ISEEEKModel",
        "AutoModelForPreTraining": "ISEEEKForMaskedLM",
        "AutoModelForMaskedLM": "ISEEEKForMaskedLM",
        "AutoModelForSequenceClassification": "ISEEEKForSequenceClassification",
        "AutoModelForTokenClassification": "ISEEEKForTokenClassification",
    },
    models=(
        "ISEEEKModel",
        "ISEEEKForMaskedLM",
        "ISEEEKForSequenceClassification",
        "ISEEEKForTokenClassification",
    ),
    built_on="bert",
    lora_target_modules=("query", "key", "value", "attention.output.dense"),
    key_value_modules=("key", "value"),
    feedforward_modules=("output.dense",),
    norm_modules=("LayerNorm",),
    special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"),
    objectives=("masked_genes",),
    tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
)
