"""The one table of families: a literal of strings, read without importing any of them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """What the package knows about one family of models.

    Attributes:
        name: the `model_type`, the folder below `modeling/` and the suffix of `obsm["X_<name>"]`.
        title: the name as the paper writes it.
        paper: authors, title, journal, year and DOI.
        repository: where the authors keep the original.
        code_license: licence of the original code.
        weights_license: licence of the released weights, as the Hub names it.
        weights_license_note: where that is known from.
        weights_license_name: name of a licence that the Hub does not know, where `weights_license` is `"other"`.
        weights_license_link: where it can be read.
        redistributable: whether converted weights may be hosted again.
        sizes: released checkpoint -> what it is.
        source_layout: what `sclm-hf convert` takes, as the end of a sentence.
        tasks: tasks of `sclm_hf.tasks` that the family serves.
        config: name of the configuration class.
        auto_classes: transformers Auto class -> our class.
        models: every public model class of the family.
        lora_target_modules: the linear layers that LoRA and its like adapt unless told otherwise.
        key_value_modules: the linear layers that make keys and values (or all three of an attention in one).
        feedforward_modules: the second linear layer of a feed-forward block.
        norm_modules: the normalisations of the layers, and the one after the last.
        classification_head: modules trained in full beside a LoRA for classification.
        embed_overrides: settings of the configuration by which `embed` and `annotate` make each cell independent of
            those that share a batch with it.
        processor_module: module of `sclm_hf.tokenization` that holds the processor.
        cells: which cells it is for.
        special_tokens: tokens of a new vocabulary that are no genes.
        genes_first: whether genes come before these in a new vocabulary.
        objectives: what its pre-training model can be trained on by `sclm-hf pretrain`, the published one first.
        no_objective: why there is none.
        tiny: configuration of a model small enough for tests and examples, without what a vocabulary tells.
    """

    name: str
    title: str
    paper: str
    repository: str
    code_license: str
    weights_license: str
    weights_license_note: str
    redistributable: bool
    sizes: dict[str, str]
    tasks: tuple[str, ...]
    config: str
    auto_classes: dict[str, str]
    models: tuple[str, ...]
    lora_target_modules: tuple[str, ...]
    key_value_modules: tuple[str, ...] = ("k_proj", "v_proj")
    feedforward_modules: tuple[str, ...] = ("linear2",)
    norm_modules: tuple[str, ...] = ("norm1", "norm2")
    classification_head: tuple[str, ...] = ("classifier",)
    tokenizer: str = "GeneTokenizer"
    feature_extractor: str = "ExpressionFeatureExtractor"
    processor: str = "CellProcessor"
    weights_license_name: str | None = None
    weights_license_link: str | None = None
    embed_overrides: dict[str, object] = field(default_factory=dict)
    processor_module: str = "processing_cell"
    cells: str = (
        "Trained on human cells; mouse genes go through orthologs (`species='mouse'`). Others are refused where "
        "names tell them apart."
    )
    special_tokens: tuple[str, ...] = ("<pad>", "<cls>", "<eoc>")
    genes_first: bool = False
    objectives: tuple[str, ...] = ()
    no_objective: str = ""
    tiny: dict[str, object] = field(default_factory=dict)
    source_layout: str = ""

    @property
    def package(self) -> str:
        return f"sclm_hf.modeling.{self.name}"

    @property
    def configuration_module(self) -> str:
        return f"{self.package}.configuration_{self.name}"

    @property
    def modeling_module(self) -> str:
        return f"{self.package}.modeling_{self.name}"

    @property
    def conversion_module(self) -> str:
        return f"{self.package}.convert_{self.name}"


FAMILIES: dict[str, Family] = {
    "cellplm": Family(
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
        tasks=("embed", "annotate"),
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
        norm_modules=("norm1", "norm2", "norm"),
        classification_head=("latent", "classifier"),
        embed_overrides={"stochastic_latent": False},
        processor="SampleProcessor",
        processor_module="processing_sample",
        special_tokens=(),
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
    ),
    "geneformer": Family(
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
        tasks=("embed", "annotate", "perturb"),
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
        lora_target_modules=("query", "key", "value", "attention.output.dense"),
        key_value_modules=("key", "value"),
        feedforward_modules=("output.dense",),
        norm_modules=("LayerNorm",),
        classification_head=("pooler", "classifier"),
        embed_overrides={"attention_pooling_includes_padding": False},
        special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"),
        objectives=("masked_genes",),
        tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    ),
    "iseeek": Family(
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
        tasks=("embed", "annotate", "perturb"),
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
        lora_target_modules=("query", "key", "value", "attention.output.dense"),
        key_value_modules=("key", "value"),
        feedforward_modules=("output.dense",),
        norm_modules=("LayerNorm",),
        special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"),
        objectives=("masked_genes",),
        tiny={"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    ),
    "scbert": Family(
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
            "one a line; for a fine-tuned model also `labels.txt`"
        ),
        tasks=("embed", "annotate"),
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
        tiny={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "head_dim": 8,
            "intermediate_size": 48,
        },
    ),
    "scfoundation": Family(
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
            "a folder with `models.ckpt` and `OS_scRNA_gene_index.19264.tsv`; gives three models, `cell`, `gene` and "
            "`rde`"
        ),
        tasks=("embed", "annotate", "perturb"),
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
    ),
    "scgpt": Family(
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
        tasks=("embed", "annotate", "perturb"),
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
    ),
    "tgpt": Family(
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
        tasks=("embed", "annotate", "perturb"),
        config="TGPTConfig",
        auto_classes={
            "AutoModel": "TGPTModel",
            "AutoModelForPreTraining": "TGPTForCausalLM",
            "AutoModelForCausalLM": "TGPTForCausalLM",
            "AutoModelForSequenceClassification": "TGPTForSequenceClassification",
            "AutoModelForTokenClassification": "TGPTForTokenClassification",
        },
        models=("TGPTModel", "TGPTForCausalLM", "TGPTForSequenceClassification", "TGPTForTokenClassification"),
        lora_target_modules=("c_attn", "attn.c_proj"),
        key_value_modules=("c_attn",),
        feedforward_modules=("mlp.c_proj",),
        norm_modules=("ln_1", "ln_2", "ln_f"),
        special_tokens=("<pad>", "<cls>", "<eos>"),
        objectives=("next_gene",),
        tiny={"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48},
    ),
    "uce": Family(
        name="uce",
        title="UCE",
        paper=(
            "Rosen et al. Universal Cell Embeddings: a foundation model for cell biology. bioRxiv (2023). "
            "doi:10.1101/2023.11.28.568918"
        ),
        repository="snap-stanford/UCE",
        code_license="MIT",
        weights_license="mit",
        weights_license_note="The licence of the authors' repository; the weight files carry none of their own.",
        redistributable=True,
        sizes={
            "4-layer": "4 layers, width 1280, 20 heads, 145,469 proteins and chromosomes of 8 species; 104 million "
            "weights beside the protein table (3 GB)",
            "33-layer": "33 layers; otherwise as the 4-layer model, with 675 million weights",
        },
        source_layout=(
            "a folder with one file of weights, such as `4layer_model.torch`, `species_chrom.csv`, "
            "`species_offsets.pkl` and the protein embeddings of the species wanted (`*_to_embedding_ESM2.pt`)"
        ),
        tasks=("embed", "annotate"),
        config="UCEConfig",
        auto_classes={
            "AutoModel": "UCEModel",
            "AutoModelForPreTraining": "UCEForMaskedExpression",
            "AutoModelForSequenceClassification": "UCEForSequenceClassification",
        },
        models=("UCEModel", "UCEForMaskedExpression", "UCEForSequenceClassification"),
        lora_target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
        processor="ChromosomeProcessor",
        processor_module="processing_chromosomes",
        cells=(
            "Trained on cells of human, mouse, mouse lemur, pig, rhesus and crab-eating macaque, zebrafish and "
            "tropical clawed frog; `species` says whose genes the data have. A cell is a random sample of its genes, "
            "keyed by its name and `seed`."
        ),
        embed_overrides={"padding_is_additive": False},
        no_objective=(
            "its authors published the model and how cells are embedded, but neither code nor settings of the "
            "pre-training: which genes are hidden, and how many are asked for"
        ),
        tiny={
            "protein_embedding_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 128,
            "decoder_size": 32,
            "cell_embedding_size": 24,
            "expression_decoder_sizes": [16, 8],
        },
    ),
}


def get_family(name: str) -> Family:
    """The family called `name` (a `model_type`).

    Raises:
        ConfigurationError: there is no such family; the message lists those that exist.
    """
    from .errors import ConfigurationError

    try:
        return FAMILIES[name]
    except KeyError:
        raise ConfigurationError(
            f"There is no family `{name}`: expected one of {', '.join(sorted(FAMILIES))}."
        ) from None
