"""The record of a family of models."""

from dataclasses import dataclass, field


class ModelFolder:
    """The modules of a folder of `modeling`, which are named like it."""

    name: str

    @property
    def package(self) -> str:
        return f"sclm_hf.modeling.{self.name}"

    @property
    def configuration_module(self) -> str:
        return f"{self.package}.configuration_{self.name}"

    @property
    def modeling_module(self) -> str:
        return f"{self.package}.modeling_{self.name}"


@dataclass(frozen=True)
class Family(ModelFolder):
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
        source_layout: what `sclm-hf convert` takes, as the end of a sentence; empty for a family without original
            checkpoints, whose models `finetune` fits.
        weights_from: where the authors give the weights, as the end of a sentence that begins "The weights are".
        encoding: what the published pipeline does to a cell, as parameters of `ExpressionFeatureExtractor`.
        published_input: what that pipeline takes, in sentences for the card.
        published_tokens: what it makes of a cell.
        config: name of the configuration class.
        auto_classes: transformers Auto class -> our class.
        models: every public model class of the family.
        built_on: `model_type` of transformers' own model whose classes ours derive from; a folder that holds one
            beside our processor opens as this family.
        told_by_encoding: setting of the configuration -> parameter of the encoding that has the same value, which a
            new model, and the configuration of transformers' own model, take from there.
        lora_target_modules: the linear layers that LoRA and its like adapt unless told otherwise; without any, a LoRA
            is refused.
        lora_without_attention: the same for models of the family that have none of these layers.
        key_value_modules: the linear layers that make keys and values (or all three of an attention in one).
        feedforward_modules: the second linear layer of a feed-forward block.
        norm_modules: the normalisations of the layers, and the one after the last.
        classification_head: modules trained in full beside a LoRA for classification.
        embed_overrides: settings of the configuration by which `embed` and `annotate` make each cell independent of
            those that share a batch with it.
        processor_module: module that holds the processor.
        public: what else of that module `sclm_hf` offers by name.
        cells: which cells the model can be used for.
        special_tokens: tokens of a new vocabulary that are no genes.
        genes_first: whether genes come before these in a new vocabulary.
        special_verbs: verbs that it serves and that ask for more than a model of one of its Auto classes.
        perturbation_model: class that predicts expression after a perturbation, from the values of genes and a flag
            for each that says whether it is perturbed.
        perturbation_encoding: parameters of the encoding in which the processor of such a model differs.
        objectives: what its pre-training model can be trained on by `sclm-hf pretrain`, the published one first.
        no_objective: why there is none.
        is_fitted: whether `finetune`, given the family's name, fits a new model on labels.
        masking: objective -> the settings of the collator in which its published masking differs from the default.
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
    encoding: dict[str, object]
    published_input: str
    published_tokens: str
    config: str
    auto_classes: dict[str, str]
    models: tuple[str, ...]
    lora_target_modules: tuple[str, ...]
    lora_without_attention: tuple[str, ...] = ()
    key_value_modules: tuple[str, ...] = ("k_proj", "v_proj")
    feedforward_modules: tuple[str, ...] = ("linear2",)
    norm_modules: tuple[str, ...] = ("norm1", "norm2")
    classification_head: tuple[str, ...] = ("classifier",)
    tokenizer: str = "GeneTokenizer"
    feature_extractor: str = "ExpressionFeatureExtractor"
    processor: str = "CellProcessor"
    built_on: str | None = None
    told_by_encoding: dict[str, str] = field(default_factory=dict)
    weights_license_name: str | None = None
    weights_license_link: str | None = None
    embed_overrides: dict[str, object] = field(default_factory=dict)
    processor_module: str = "sclm_hf.tokenization.processing_cell"
    public: tuple[str, ...] = ()
    cells: str = (
        "Trained on human cells. Mouse cells can be used too: their genes are replaced by human orthologs "
        "(`species='mouse'`). Cells of other species are refused if their gene names or ids show it."
    )
    special_tokens: tuple[str, ...] = ("<pad>", "<cls>", "<eoc>")
    genes_first: bool = False
    special_verbs: tuple[str, ...] = ()
    perturbation_model: str = ""
    perturbation_encoding: dict[str, object] = field(default_factory=dict)
    objectives: tuple[str, ...] = ()
    no_objective: str = ""
    is_fitted: bool = False
    masking: dict[str, dict[str, object]] = field(default_factory=dict)
    tiny: dict[str, object] = field(default_factory=dict)
    source_layout: str = ""
    weights_from: str = ""

    @property
    def conversion_module(self) -> str:
        return f"{self.package}.convert_{self.name}"
