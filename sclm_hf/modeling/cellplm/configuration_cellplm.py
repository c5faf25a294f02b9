"""Configuration of CellPLM."""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring

from sclm_hf.errors import ConfigurationError
from sclm_hf.modeling.common.plans import SHARDED, SPLIT

UNSUPPORTED = {
    "cat_pe": "positions beside expression",
    "input_covariate": "covariates in the encoder",
    "dsbn": "normalisation by data set",
    "dar": "an adversarial discriminator",
    "ecs": "elastic cell similarity",
}
"""Settings of the original that no release has, and what they are."""


@auto_docstring(
    custom_intro="""
    Configuration of CellPLM. The defaults are the model released as `20230926_85M` (Wen et al., ICLR 2024).
    """
)
@strict
class CellPLMConfig(PreTrainedConfig):
    r"""
    vocab_size (`int`, *optional*, defaults to 19374):
        Rows of the gene table; there are no special tokens.
    input_encoding (`str`, *optional*, defaults to `"continuous"`):
        What `expression_values` are, named as the encodings of the processor: `"continuous"`, counts, of which the
        model takes the logarithm, as published; or `"zscored"`, z-scores, which it takes and predicts as they are.
    num_attention_heads (`int`, *optional*, defaults to 8):
        Attention heads of the encoder.
    encoder_type (`str`, *optional*, defaults to `"flowformer"`):
        Layers over the cells of a sample: `"flowformer"`, `"performer"`, `"cosformer"` (the order of cells matters to
        it), `"transformer"` (softmax attention, spectrally normalised feed-forward part), `"mlp"` (each cell alone) or
        `"none"`.
    head_dim (`int`, *optional*, defaults to 64):
        Width of a head of the encoder `"performer"`; that of the others is `hidden_size / num_attention_heads`.
    num_random_features (`int`, *optional*, defaults to 266):
        Random features of the encoder `"performer"`.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.2):
        Dropout of embeddings, encoder and decoder.
    attention_dropout_prob (`float`, *optional*, defaults to 0.01):
        Dropout behind the attention of flowformers, which the original has beside the others and does not set.
    norm (`str`, *optional*, defaults to `"groupnorm"`):
        Normalisation of embeddings and decoder: `"groupnorm"` (of a quarter of the channels of a cell), `"layernorm"`,
        `"rmsnorm"` or `"none"`.
    latent_type (`str`, *optional*, defaults to `"gmvae"`):
        What a cell's embedding is: `"gmvae"`, a Gaussian mixture of `num_clusters`; `"vae"`, one Gaussian, as in the
        model released as `20231027_85M`; `"ae"`, a linear map, as for annotation; `"split"`, a continuous part of
        `num_continuous` and soft classes of `num_categories`, merged.
    cell_embedding_size (`int`, *optional*, defaults to 512):
        Width of the cell embedding.
    classifier_latent_type (`str`, *optional*, defaults to `"ae"`):
        What takes the place of `latent_type` in `CellPLMForSequenceClassification`, started at random where a
        checkpoint has another one, as in the original's fine-tuning; None keeps `latent_type`.
    latent_hidden_size (`int`, *optional*, defaults to 512):
        Hidden units between encoder and mixture.
    num_clusters (`int`, *optional*, defaults to 16):
        Gaussians of the mixture.
    num_continuous (`int`, *optional*, defaults to 128):
        Width of the continuous part of the latent `"split"`.
    num_categories (`int`, *optional*, defaults to 128):
        Width of its categorical part.
    stochastic_latent (`bool`, *optional*, defaults to `True`):
        Quirk of the original: the mixture's component is drawn at random in evaluation too, so that a cell's embedding
        changes from call to call. False takes the most likely one; `embed` and `annotate` do.
    latent_loss_floor (`float`, *optional*, defaults to 5.0):
        Terms of the mixture's loss below it count as much as it, without gradient. With the defaults the categorical
        term always does.
    vae_loss_floor (`float`, *optional*, defaults to 1.0):
        A divergence of the latent `"vae"` below it counts nothing; `latent_loss_floor` does not reach it.
    vae_warmup_steps (`int`, *optional*, defaults to 10000):
        The weight of that divergence rises by one over it with each training forward, up to the last but one. The
        original forgets the weight when it saves; here it is part of the weights.
    gaussian_loss_weight (`float`, *optional*, defaults to 5.0):
        Weight of the mixture's loss that compares a cell's Gaussian with that of its cluster.
    cluster_loss_weight (`float`, *optional*, defaults to 5.0):
        Weight of the mixture's loss that compares the shares of clusters with equal ones.
    decoder_type (`str`, *optional*):
        From embeddings to counts: `"nbmlp"` (mean and dispersion of a negative binomial; the default), `"mlp"` or
        `"resmlp"`. To z-scores: `"mlp"`.
    num_batches (`int`, *optional*, defaults to 12596):
        Batches that the decoder tells apart; 0 = it does not.
    num_datasets (`int`, *optional*, defaults to 484):
        Data sets that the decoder tells apart; 0 = it does not.
    num_platforms (`int`, *optional*, defaults to 0):
        Platforms that the decoder tells apart; 0 = it does not.
    missing_covariate (`str`, *optional*, defaults to `"sum"`):
        What stands for a covariate that is not given: the `"sum"` of all its embeddings, as in the original, whose
        text speaks of the `"mean"`.
    num_head_layers (`int`, *optional*, defaults to 1):
        Linear layers of a classifier or of another head over cell embeddings.
    head_hidden_size (`int`, *optional*, defaults to 1024):
        Their hidden units.
    head_dropout (`float`, *optional*, defaults to 0.5):
        Dropout before each of them.
    num_outputs (`int`, *optional*):
        Genes that a head over cell embeddings predicts; `vocab_size` by default.
    head_objective (`str`, *optional*, defaults to `"imputation"`):
        The loss of `CellPLMForExpressionRegression`: `"imputation"`, `"denoising"` or `"perturbation"`.
    chunk_size (`int`, *optional*):
        Cells at a time where no gradient is asked for; changes rounding only. All by default.
    normalize_cell_embedding (`bool`, *optional*, defaults to `False`):
        Whether `embed` divides cell embeddings by their L2 norm.
    """

    model_type = "cellplm"
    base_model_fsdp_plan = SHARDED | {"norm": "keep_full_weight"}
    base_model_tp_plan = SPLIT
    keys_to_ignore_at_inference = [
        "cell_embedding",
        "gene_embeddings",
        "expression_loss",
        "latent_loss",
        "dispersion",
    ]

    vocab_size: int = 19374
    input_encoding: Literal["continuous", "zscored"] = "continuous"
    hidden_size: int = 1024
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    encoder_type: Literal["flowformer", "performer", "cosformer", "transformer", "mlp", "none"] = "flowformer"
    head_dim: int = 64
    num_random_features: int = 266
    hidden_dropout_prob: float | int = 0.2
    attention_dropout_prob: float | int = 0.01
    norm: Literal["groupnorm", "layernorm", "rmsnorm", "none"] = "groupnorm"
    layer_norm_eps: float = 1e-5
    latent_type: Literal["gmvae", "vae", "ae", "split"] = "gmvae"
    classifier_latent_type: Literal["gmvae", "vae", "ae", "split"] | None = "ae"
    cell_embedding_size: int = 512
    latent_hidden_size: int = 512
    num_clusters: int = 16
    num_continuous: int = 128
    num_categories: int = 128
    stochastic_latent: bool = True
    latent_loss_floor: float | int = 5.0
    vae_loss_floor: float | int = 1.0
    vae_warmup_steps: int = 10_000
    gaussian_loss_weight: float | int = 5.0
    cluster_loss_weight: float | int = 5.0
    decoder_type: Literal["nbmlp", "mlp", "resmlp"] | None = None
    decoder_hidden_size: int = 1024
    num_decoder_layers: int = 2
    num_batches: int = 12596
    num_datasets: int = 484
    num_platforms: int = 0
    missing_covariate: Literal["sum", "mean"] = "sum"
    num_head_layers: int = 1
    head_hidden_size: int = 1024
    head_dropout: float | int = 0.5
    num_outputs: int | None = None
    head_objective: Literal["imputation", "denoising", "perturbation"] = "imputation"
    chunk_size: int | None = None
    pad_token_id: int | None = None
    normalize_cell_embedding: bool = False

    def __post_init__(self, **kwargs):
        # transformers would keep them, and nothing would heed them
        for name in (name for name in UNSUPPORTED if kwargs.get(name)):
            raise ConfigurationError(f"`{name}` ({UNSUPPORTED[name]}), which no release of CellPLM has, is not built.")
        if self.num_outputs is None:
            self.num_outputs = self.vocab_size
        if self.decoder_type is None:
            self.decoder_type = "mlp" if self.input_encoding == "zscored" else "nbmlp"
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Refuse sizes that do not go together."""
        if self.encoder_type not in ("performer", "mlp", "none") and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` {self.hidden_size} must be a multiple of `num_attention_heads` "
                f"{self.num_attention_heads}."
            )
        if self.norm == "groupnorm" and (self.hidden_size % 4 or self.decoder_hidden_size % 4):
            raise ValueError(
                "`norm='groupnorm'` normalises quarters: `hidden_size` and `decoder_hidden_size` must be multiples of "
                f"4, got {self.hidden_size} and {self.decoder_hidden_size}."
            )
        if self.num_decoder_layers < 2 and self.decoder_type != "mlp":
            raise ValueError(f"`num_decoder_layers` must be at least 2, got {self.num_decoder_layers}.")
        if self.input_encoding == "zscored" and self.decoder_type != "mlp":
            raise ValueError(
                f"`decoder_type` {self.decoder_type!r} predicts counts, and `input_encoding` is 'zscored': leave out "
                "`decoder_type`, or give 'mlp'."
            )
        if self.chunk_size is not None and self.chunk_size < 1:
            raise ValueError(f"`chunk_size` must be at least 1, or None, got {self.chunk_size}.")


__all__ = ["CellPLMConfig"]
