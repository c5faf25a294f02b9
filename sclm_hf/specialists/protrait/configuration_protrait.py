"""Configuration of PROTRAIT."""

from huggingface_hub.dataclasses import strict
from transformers.utils import auto_docstring

from sclm_hf.modeling.common.configuration import CheckedConfig

STEM_POOLS = (2, 4, 4, 4)
"""How many positions become one in each layer of the stem."""


@auto_docstring(
    custom_intro="""
    Configuration of PROTRAIT; the defaults are the published ones.
    """
)
@strict
class PROTRAITConfig(CheckedConfig):
    r"""
    num_cells (`int`, *optional*, defaults to 2034):
        Cells of the data set, which are the outputs.
    sequence_length (`int`, *optional*, defaults to 1344):
        Bases that are read of a peak.
    longest_without_stem (`int`, *optional*, defaults to 1344):
        Sequences above it are shortened 128 times by convolutions before the first layer.
    hidden_size (`int`, *optional*, defaults to 288):
        Width of the model.
    num_attention_heads (`int`, *optional*, defaults to 8):
        Heads of each layer.
    intermediate_size (`int`, *optional*):
        Width of the feed-forward part; None = twice `hidden_size`.
    pool_sizes (`list[int]`, *optional*, defaults to `[3, 2, 2, 2, 2, 2]`):
        How many positions become one after each layer; as many layers as numbers.
    bottleneck_size (`int`, *optional*, defaults to 32):
        Width of the vectors of peaks and cells.
    sparse_factor (`int`, *optional*, defaults to 4):
        One of so many positions attends to all, and as many keys are drawn to find which.
    deterministic_sampling (`bool`, *optional*, defaults to `True`):
        Whether these keys depend on the layer and the length alone; else they are drawn anew in every call, in
        inference too, as in the original.
    sampling_seed (`int`, *optional*, defaults to 0):
        Seed of keys that do.
    hidden_dropout_prob (`float`, *optional*, defaults to 0.1):
        Dropout of attention's output.
    bottleneck_dropout_prob (`float`, *optional*, defaults to 0.2):
        Dropout of the vector of a peak.
    layer_norm_eps (`float`, *optional*, defaults to 1e-5):
        Epsilon of the layer norms.
    """

    model_type = "protrait"
    keys_to_ignore_at_inference = ["peak_embedding"]

    num_cells: int = 2034
    sequence_length: int = 1344
    longest_without_stem: int = 1344
    hidden_size: int = 288
    num_attention_heads: int = 8
    intermediate_size: int | None = None
    pool_sizes: list[int] | tuple[int, ...] = (3, 2, 2, 2, 2, 2)
    bottleneck_size: int = 32
    sparse_factor: int = 4
    deterministic_sampling: bool = True
    sampling_seed: int = 0
    hidden_dropout_prob: float | int = 0.1
    bottleneck_dropout_prob: float | int = 0.2
    layer_norm_eps: float = 1e-5

    @property
    def num_hidden_layers(self) -> int:
        return len(self.pool_sizes)

    @property
    def has_stem(self) -> bool:
        return self.sequence_length > self.longest_without_stem

    @property
    def lengths(self) -> list[int]:
        """Positions that each layer reads, and those that are left after the last."""
        length = self.sequence_length
        for size in STEM_POOLS if self.has_stem else ():
            length //= size
        found = [length]
        for size in self.pool_sizes:
            found.append(found[-1] // size)
        return found

    @property
    def flattened_size(self) -> int:
        """Width of a peak before it becomes a vector of `bottleneck_size`."""
        return self.lengths[-1] // 2 * (self.hidden_size // 2)

    def validate_architecture(self):
        """Refuse sizes that contradict one another."""
        if self.hidden_size % self.num_attention_heads or self.hidden_size % 2:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be even, and a multiple of `num_attention_heads` "
                f"({self.num_attention_heads})."
            )
        if self.has_stem and (self.hidden_size - 4) % len(STEM_POOLS):
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be 4 more than a multiple of {len(STEM_POOLS)}, as the four "
                "layers that shorten long sequences grow evenly."
            )
        *read, left = self.lengths
        if not read or min(read) < self.sparse_factor or left < 2:
            raise ValueError(
                f"A sequence of {self.sequence_length:,} bases is pooled to {read} positions per layer and {left} "
                f"after the last: each layer needs at least `sparse_factor` ({self.sparse_factor}), and 2 must be "
                "left. Read longer sequences, or name fewer or smaller `pool_sizes`."
            )


__all__ = ["PROTRAITConfig"]
