"""Configuration of scMVP."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig


@auto_docstring(
    custom_intro="""
    Configuration of scMVP; the defaults are those of the published tutorial, but for the last seven, whose other value
    is what the published code does.
    """
)
@strict
class ScMVPConfig(CheckedConfig):
    r"""
    num_genes (`int`, *optional*, defaults to 2000):
        Genes of a cell, in the order of the processor.
    num_peaks (`int`, *optional*, defaults to 10000):
        Peaks of a cell, in the order of the processor.
    hidden_size (`int`, *optional*, defaults to 128):
        Width of the hidden layers.
    latent_size (`int`, *optional*, defaults to 20):
        Width of the latent that both modalities share.
    num_attention_heads (`int`, *optional*, defaults to 8):
        Heads of the attention within the hidden vector of ATAC.
    num_components (`int`, *optional*, defaults to 5):
        Components of the mixture that the latent is drawn from.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
        Dropout of the encoders.
    decoder_dropout_prob (`float`, *optional*, defaults to 0.01):
        Dropout of the attention of the decoder.
    rna_weight (`float`, *optional*, defaults to 3.0):
        Weight of the reconstruction of RNA in the loss.
    atac_weight (`float`, *optional*, defaults to 0.1):
        Weight of the reconstruction of ATAC in the loss.
    clustering_weight (`float`, *optional*, defaults to 0.5):
        Weight of what the components should look like in the loss.
    agreement_weight (`float`, *optional*, defaults to 0.1):
        Weight in the loss of the agreement of the latent with those of the single modalities, and of their
        reconstructions.
    component_deviation (`float`, *optional*, defaults to 1.0):
        Deviation of the first means of the components; 0 as published, where components that are not set from
        elsewhere start alike and stay alike.
    variance_as_log_variance (`bool`, *optional*, defaults to `False`):
        Whether the mixture's part of the loss takes a variance where it needs the logarithm of one.
    normalize_mixture (`bool`, *optional*, defaults to `True`):
        Whether the weights of the components sum up to 1.
    softmax_of_components (`bool`, *optional*, defaults to `False`):
        Whether probabilities of components go through a softmax once more before those of a cell and of its
        reconstruction are compared.
    prefer_few_components (`bool`, *optional*, defaults to `False`):
        Whether the loss falls when cells crowd in one component, and not when they spread over all.
    has_density_floor (`bool`, *optional*, defaults to `False`):
        Whether 1e-10 is added to the density of each component, which in a wide latent is more than that itself, so
        that all components look alike.
    has_unused_parts (`bool`, *optional*, defaults to `False`):
        Whether there are the layers that the loss never reads: the encoder of library sizes, the dispersion of each
        cell, and the dropout of RNA.
    """

    model_type = "scmvp"
    keys_to_ignore_at_inference = ["cell_embedding"]

    num_genes: int = 2000
    num_peaks: int = 10000
    hidden_size: int = 128
    latent_size: int = 20
    num_attention_heads: int = 8
    num_components: int = 5
    hidden_dropout_prob: float | int = 0.1
    decoder_dropout_prob: float | int = 0.01
    rna_weight: float | int = 3.0
    atac_weight: float | int = 0.1
    clustering_weight: float | int = 0.5
    agreement_weight: float | int = 0.1
    component_deviation: float | int = 1.0
    variance_as_log_variance: bool = False
    normalize_mixture: bool = True
    softmax_of_components: bool = False
    prefer_few_components: bool = False
    has_density_floor: bool = False
    has_unused_parts: bool = False

    @property
    def cell_embedding_size(self) -> int:
        return self.latent_size

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )


__all__ = ["ScMVPConfig"]
