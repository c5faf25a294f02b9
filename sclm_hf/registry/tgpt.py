"""What the package knows about tGPT."""

from .family import Family

FAMILY = Family(
    name="tgpt",
    title="tGPT",
    paper=(
        "Shen et al. Generative pretraining from large-scale transcriptomes for single-cell deciphering. "
        "iScience 26, 106536 (2023). doi:10.1016/j.isci.2023.106536"
    ),
    repository="deeplearningplus/tGPT",
    code_license="GPL-3.0",
    weights_license="other",
    weights_license_note="The authors name no licence for the weights; their code is under GPL-3.0.",
    weights_license_name="none-stated",
    redistributable=False,
    sizes={
        "transcriptome-gpt-1024-8-16-64": "8 layers, width 1024, 16 heads, 21,150 tokens; 62 ranks between "
        "`</b>` and `</s>`",
    },
    source_layout=(
        "a folder with `config.json`, `tokenizer.json` (or `gpt2tokenizer/`) and `model.safetensors` or "
        "`pytorch_model.bin`; or, of the authors' training, `model_{epoch}.pth` or `checkpoint.pth`; or the path "
        "of such a file"
    ),
    weights_from=("in `lixiangchun/transcriptome-gpt-1024-8-16-64` on the Hub"),
    encoding={
        "encoding": "rank",
        "expects": "any",
        "max_length": 64,
        "truncation": "head",
        "add_cls": True,
        "add_eos": True,
        "add_token_types": True,
    },
    published_input=(
        "Rankings of genes; how they were made is not published. Here any expression that is not negative will do,"
        " because only the order within a cell counts."
    ),
    published_tokens=(
        "The 62 most expressed genes, equal ones in the order of their ids, between `</b>` and `</s>`; and token "
        "types, all 0, which the model adds as the vector of `<pad>`."
    ),
    special_verbs=(
        "explain",
        "perturb",
    ),
    config="TGPTConfig",
    auto_classes={
        "AutoModel": "TGPTModel",
        "AutoModelForPreTraining": "TGPTForCausalLM",
        "AutoModelForCausalLM": "TGPTForCausalLM",
        "AutoModelForSequenceClassification": "TGPTForSequenceClassification",
        "AutoModelForTokenClassification": "TGPTForTokenClassification",
    },
    models=("TGPTModel", "TGPTForCausalLM", "TGPTForSequenceClassification", "TGPTForTokenClassification"),
    built_on="gpt2",
    lora_target_modules=("c_attn", "attn.c_proj"),
    key_value_modules=("c_attn",),
    feedforward_modules=("mlp.c_proj",),
    norm_modules=("ln_1", "ln_2", "ln_f"),
    special_tokens=("<pad>", "<cls>", "<eos>"),
    objectives=("next_gene",),
    tiny={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
)
