"""Configuration of scGPT."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.plans import SHARDED, SPLIT


@auto_docstring(
    custom_intro="""
    Configuration of scGPT. The defaults are the released whole-human model (Cui et al., Nature Methods 2024).
    """
)
@strict
class ScGPTConfig(PreTrainedConfig):
    r"""
    hidden_dropout_prob (`float`, *optional*, defaults to 0.2):
        Dropout after attention, in the feed-forward part, on attention weights and on value embeddings.
    cls_token_id (`int`, *optional*, defaults to 60695):
        Id of `<cls>`, whose position carries the cell.
    num_bins (`int`, *optional*, defaults to 51):
        Number of expression bins of the value encoding, bin 0 being zero counts.
    value_style (`str`, *optional*, defaults to `"continuous"`):
        How values are embedded: `"continuous"` (an MLP on the number), `"category"` (a table of bins) or `"scaling"`
        (the gene embedding is multiplied by the value).
    num_value_embeddings (`int`, *optional*):
        Rows of the table of bins when `value_style` is `"category"`; `num_bins + 2` (bins, padding, mask) by default.
    max_value (`float`, *optional*, defaults to 512.0):
        Larger values are cut to this one before the value MLP, as published.
    pad_value (`float`, *optional*, defaults to -2.0):
        Value at padded positions.
    mask_value (`float`, *optional*, defaults to -1.0):
        Value at masked positions.
    pooling (`str`, *optional*, defaults to `"cls"`):
        How the cell embedding is made: `"cls"`, `"avg-pool"`, or `"w-pool"` (weighted by the input values, then
        L2-normalised).
    pooling_includes_padding (`bool`, *optional*, defaults to `True`):
        Quirk of the original: `"avg-pool"` and `"w-pool"` take padded positions in, so that a cell depends on its
        batch. False pools real positions, which equals the original at batch size 1; `embed` uses that.
    cell_embedding_size (`int`, *optional*):
        Width of the cell embedding: always `hidden_size`.
    normalize_cell_embedding (`bool`, *optional*, defaults to `True`):
        Whether `embed` divides cell embeddings by their L2 norm, as the published procedure does.
    norm_style (`str`, *optional*, defaults to `"post"`):
        `"post"`: `x = norm(x + f(x))`. `"pre"` is the original's variant, whose residual carries the normalised input:
        `x = norm(x); x = x + f(x)`.
    domain_norm (`str`, *optional*):
        Normalisation over batch and positions before the encoder, padding included: `"dsbn"` (one set of running
        statistics a batch label, no affine part), `"batchnorm"`, `"do_affine"` (a value of the original that does
        nothing) or None.
    dsbn_batch_domain (`str`, *optional*, defaults to `"first"`):
        Quirk of the original: `"first"` normalises the whole batch with the domain of its first cell. `"cell"` uses
        each cell's own domain at inference, which equals the original at batch size 1; `embed` uses that.
    use_batch_labels (`bool`, *optional*, defaults to `False`):
        Whether the expression decoders see an embedding of the cell's batch label.
    num_batch_labels (`int`, *optional*, defaults to 0):
        Number of batch labels.
    batch_names (`list[str]`, *optional*):
        Names of the batches in the order of their labels, where known.
    num_modalities (`int`, *optional*, defaults to 0):
        Rows of the modality table of the multi-omic model, 0 for none.
    modality_pad_token_id (`int`, *optional*):
        Padding id in the modality table.
    multiomic_decoder (`bool`, *optional*, defaults to `False`):
        Whether the cell-wise decoder has the multi-omic layout, which adds batch and modality to its gene side too.
    explicit_zero_prob (`bool`, *optional*, defaults to `False`):
        Whether decoders also predict the probability that a gene is expressed.
    mvc_style (`str`, *optional*, defaults to `"inner product"`):
        Decoder of expression from the cell embedding (MVC): `"inner product"`, `"inner product, detach"`,
        `"concat query"`, `"sum query"` or None.
    use_flag_embedding (`bool`, *optional*, defaults to `True`):
        Whether the flag table of generative pre-training exists; row 1 marks genes to generate.
    generation_skips_output_projection (`bool`, *optional*, defaults to `True`):
        Quirk of the published pre-training code: attention of genes to generate does not pass the output projection.
    use_classifier (`bool`, *optional*, defaults to `False`):
        Whether `ScGPTForMaskedExpression` and `ScGPTForPerturbation` carry the cell classifier as well.
    classifier_num_layers (`int`, *optional*, defaults to 3):
        Linear layers of the cell classifier, the last one included.
    use_ecs (`bool`, *optional*, defaults to `False`):
        Whether the elastic cell similarity loss is added.
    ecs_threshold (`float`, *optional*, defaults to 0.3):
        Its threshold.
    ecs_weight (`float`, *optional*, defaults to 10.0):
        Its weight.
    use_cce (`bool`, *optional*, defaults to `False`):
        Whether the contrastive cell embedding loss is added (a second forward pass under dropout).
    use_batch_discriminator (`bool`, *optional*, defaults to `False`):
        Whether a discriminator of batches behind a gradient reversal exists (DAB).
    batch_discriminator_weight (`float`, *optional*, defaults to 1.0):
        Weight of its loss.
    perturbation_pad_id (`int`, *optional*, defaults to 2):
        Padding id of the perturbation table. The published tutorial uses 0, which keeps "not perturbed" at zero.
    decoder_activation (`str`, *optional*):
        Name of an activation of `torch.nn` on both parts of the perturbation decoder.
    decoder_adaptive_bias (`bool`, *optional*, defaults to `False`):
        Whether the perturbation decoder's bias is multiplied by the cell's mean non-zero value.
    num_input_bins (`int`, *optional*, defaults to 0):
        If positive, the perturbation model bins its input values itself, with random ties.
    sample_zeros_in_eval (`bool`, *optional*, defaults to `True`):
        Quirk of the original: in evaluation the perturbation model with `explicit_zero_prob` draws which genes are
        zero. False returns the prediction itself.
    """

    model_type = "scgpt"
    base_model_fsdp_plan = SHARDED
    base_model_tp_plan = SPLIT
    keys_to_ignore_at_inference = [
        "cell_embedding",
        "gene_embeddings",
        "cell_expression_prediction",
        "nonzero_probability",
        "cell_nonzero_probability",
        "batch_logits",
        "loss_terms",
    ]

    vocab_size: int = 60697
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 512
    hidden_dropout_prob: float | int = 0.2
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.1
    pad_token_id: int | None = 60694
    cls_token_id: int | None = 60695
    num_bins: int = 51
    value_style: Literal["continuous", "category", "scaling"] = "continuous"
    num_value_embeddings: int | None = None
    max_value: float | int = 512.0
    pad_value: float | int = -2.0
    mask_value: float | int = -1.0
    pooling: Literal["cls", "avg-pool", "w-pool"] = "cls"
    pooling_includes_padding: bool = True
    cell_embedding_size: int | None = None
    normalize_cell_embedding: bool = True
    norm_style: Literal["post", "pre"] = "post"
    domain_norm: Literal["dsbn", "batchnorm", "do_affine"] | None = None
    dsbn_batch_domain: Literal["first", "cell"] = "first"
    use_batch_labels: bool = False
    num_batch_labels: int = 0
    batch_names: list[str] | None = None
    num_modalities: int = 0
    modality_pad_token_id: int | None = None
    multiomic_decoder: bool = False
    explicit_zero_prob: bool = False
    mvc_style: Literal["inner product", "inner product, detach", "concat query", "sum query"] | None = "inner product"
    use_flag_embedding: bool = True
    generation_skips_output_projection: bool = True
    use_classifier: bool = False
    classifier_num_layers: int = 3
    use_ecs: bool = False
    ecs_threshold: float | int = 0.3
    ecs_weight: float | int = 10.0
    use_cce: bool = False
    use_batch_discriminator: bool = False
    batch_discriminator_weight: float | int = 1.0
    perturbation_pad_id: int = 2
    decoder_activation: str | None = None
    decoder_adaptive_bias: bool = False
    num_input_bins: int = 0
    sample_zeros_in_eval: bool = True

    def __post_init__(self, **kwargs):
        if self.cell_embedding_size is None:
            self.cell_embedding_size = self.hidden_size
        if self.num_value_embeddings is None and self.value_style == "category":
            self.num_value_embeddings = self.num_bins + 2
        super().__post_init__(**kwargs)

    @property
    def needs_batch_labels(self) -> bool:
        """Whether the encoder must be given `batch_labels`."""
        return self.domain_norm == "dsbn"

    @property
    def accepts_batch_labels(self) -> bool:
        """Whether any part of the model was trained with `batch_labels`."""
        return self.use_batch_labels or self.use_batch_discriminator or self.domain_norm is not None

    def validate_architecture(self):
        """Refuse sizes and options that contradict one another."""
        if self.hidden_size % self.num_attention_heads != 0:
            raise ValueError(
                f"`hidden_size` must be a multiple of `num_attention_heads`, got {self.hidden_size} and "
                f"{self.num_attention_heads}."
            )
        wants_labels = self.use_batch_labels or self.domain_norm == "dsbn" or self.use_batch_discriminator
        if wants_labels and self.num_batch_labels < 1:
            raise ValueError(
                "`num_batch_labels` must be at least 1 with `use_batch_labels`, `domain_norm='dsbn'` or "
                f"`use_batch_discriminator`, got {self.num_batch_labels}."
            )
        if self.use_cce and self.pooling == "w-pool":
            raise ValueError(
                "`use_cce` needs `pooling='cls'` or `'avg-pool'`: its second pass has no weights to pool by."
            )
        if self.cell_embedding_size != self.hidden_size:
            raise ValueError(
                f"`cell_embedding_size` must equal `hidden_size` ({self.hidden_size}), got {self.cell_embedding_size}."
            )
        if self.classifier_num_layers < 1:
            raise ValueError(f"`classifier_num_layers` must be at least 1, got {self.classifier_num_layers}.")


__all__ = ["ScGPTConfig"]
