"""Inference on a CPU, for every family: attention and products are computed in faster ways.

The model's function stays the same; only sums are rounded differently. `benchmarks/cpu.py` measures what it gains.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

FEWEST_TOKENS, FEWEST_IN_BFLOAT16 = 512, 128
"""With fewer tokens per cell, attention over the whole batch is as fast."""

QUERIES_PER_CHUNK = 256
"""Queries of a cell that are computed together, so that their weights stay in the cache."""

KEYS_AT_A_TIME = 16
"""Keys that torch's attention weighs at a time; it takes twice as long for 63 of them as for 64."""

_PRODUCTS = {F.linear, torch.addmm, torch.bmm, torch.matmul, torch.einsum, Tensor.matmul, Tensor.__matmul__}
_FAST_INSTRUCTIONS = ("amx_bf16", "bf16", "arm_bf16")
_VECTOR_INSTRUCTIONS = ("avx512_bf16", "avx_ne_convert")

CACHED_BYTES = 2**23
"""Largest activation of a batch: those that fit in the caches, and that the allocator need not fetch anew from the
system each time, make inference 1.5 times faster than those of 64 cells at once (`benchmarks/tasks.py`)."""


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 faster than float32.

    Without instructions for it torch emulates it, about four times slower. Vector instructions make it twice as fast
    on AMD's; on Intel's without AMX they reach half of what float32 does.
    """
    capabilities = torch.cpu.get_capabilities()
    is_intel = "intel" in str(capabilities.get("cpu_name", "")).lower()
    fast = _FAST_INSTRUCTIONS if is_intel else (*_FAST_INSTRUCTIONS, *_VECTOR_INSTRUCTIONS)
    return any(capabilities.get(name, False) for name in fast)


def has_slow_products() -> bool:
    """Whether torch's own products of float32 leave the CPU's widest vectors unused, and oneDNN's do not.

    Those of MKL use AVX-512 on Intel's processors only; `benchmarks/cpu.py` measures what oneDNN gains.
    """
    capabilities = torch.cpu.get_capabilities()
    is_intel = "intel" in str(capabilities.get("cpu_name", "")).lower()
    has_vectors = bool(capabilities.get("avx512_f", False))
    return torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available() and has_vectors and not is_intel


def tokens_at_a_time(model: nn.Module, most: int) -> int:
    """Most tokens of a batch: on a CPU so few that its activations stay in the caches, elsewhere `most`."""
    if model.device.type != "cpu":
        return most
    widths = [getattr(model.config, name, None) for name in ("hidden_size", "intermediate_size")]
    widest = max((width for width in widths if isinstance(width, int)), default=512)
    return min(most, CACHED_BYTES // (4 * widest))


@contextlib.contextmanager
def fast_on_cpu(model: nn.Module) -> Iterator[None]:
    """Speed up inference with `model` inside this context, if it is on a CPU and not compiled.

    Attention is computed one cell at a time, without the keys that its mask hides. Where the CPU multiplies bfloat16
    no faster than float32, products of bfloat16 tensors are computed in float32 and rounded. Where MKL is slow (see
    [`has_slow_products`]), oneDNN computes the products of float32. Quantised layers stay as they are.
    """
    compiled = getattr(model, "_compiled_call_impl", None) is not None or hasattr(model, "_orig_mod")
    on_cpu = next(model.parameters()).device.type == "cpu"
    faster = _FastFunctions(widen=not has_fast_bfloat16(), onednn=has_slow_products())
    with faster if on_cpu and not compiled else contextlib.nullcontext():
        yield


class _FastFunctions(TorchFunctionMode):
    def __init__(self, *, widen: bool, onednn: bool) -> None:
        super().__init__()
        self.widen = widen
        self.replacements: dict[Any, Callable] = {F.scaled_dot_product_attention: cell_by_cell_attention}
        if onednn:
            self.replacements |= {F.linear: onednn_linear, torch.addmm: _onednn_addmm}

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        widen = self.widen and (function in _PRODUCTS or function is F.scaled_dot_product_attention)
        function = self.replacements.get(function, function)
        if not widen or not _are_plain([*args, *kwargs.values()], torch.bfloat16):
            return function(*args, **kwargs)
        return function(*map(_widened, args), **{name: _widened(one) for name, one in kwargs.items()}).bfloat16()


def _are_plain(arguments: list, dtype: torch.dtype) -> bool:
    """Whether all floating-point tensors are of this type, and not quantised."""
    tensors = [one for one in arguments if isinstance(one, Tensor) and one.dtype != torch.bool]
    return bool(tensors) and all(one.dtype == dtype and type(one) in (Tensor, nn.Parameter) for one in tensors)


def onednn_linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `torch.nn.functional.linear` by oneDNN, if the tensors are plain ones of float32 and need no gradient.

    Args:
        input: `(..., in)`.
        weight: `(out, in)`.
        bias: `(out,)`.

    Returns:
        `(..., out)`.
    """
    plain = _are_plain([input, weight, bias], torch.float32) and not torch.is_grad_enabled()
    fits = input.dim() >= 2 and weight.dim() == 2 and (bias is None or bias.shape == weight.shape[:1])
    if not plain or not fits or input.numel() == 0:
        return F.linear(input, weight, bias)
    # it reads a bias as if its numbers lay one after the other, and not every layout of weights
    bias = None if bias is None else bias.contiguous()
    weight = weight if weight.t().is_contiguous() else weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _onednn_addmm(input: Tensor, mat1: Tensor, mat2: Tensor, **scales: float) -> Tensor:
    if scales or input.shape != mat2.shape[1:]:
        return torch.addmm(input, mat1, mat2, **scales)
    return onednn_linear(mat1, mat2.t(), input)


def _widened(argument: Any) -> Any:
    return argument.float() if isinstance(argument, Tensor) and argument.dtype == torch.bfloat16 else argument


def cell_by_cell_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **kwargs: Any,
) -> Tensor:
    """Compute `torch.nn.functional.scaled_dot_product_attention` one cell at a time, where that is faster.

    Args:
        query, key, value: `(batch, heads, tokens, head_dim)`.
        attn_mask: as there. Only boolean masks that all queries of a cell share let cells be computed alone.
        dropout_p, is_causal, scale, **kwargs: as there.

    Returns:
        `(batch, heads, tokens, head_dim)`.
    """
    fewest = FEWEST_IN_BFLOAT16 if query.dtype == torch.bfloat16 else FEWEST_TOKENS
    long = query.dim() == 4 and query.shape[2] >= fewest and not torch.is_grad_enabled()
    if not long or dropout_p or is_causal or kwargs or not (attn_mask is None or _hides_keys(attn_mask, query)):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **kwargs
        )
    attend = _attention_of_a_cell(query.dtype)
    batch, heads, tokens, _ = query.shape
    context = query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)
    for cell in range(batch):
        one = slice(cell, cell + 1)
        keys, values = key[one], value[one]
        if attn_mask is not None and not attn_mask[cell, 0, 0].all():
            places = attn_mask[cell, 0, 0].nonzero()[:, 0]
            keys, values = keys.index_select(2, places), values.index_select(2, places)
        context[one] = attend(query[one].contiguous(), keys.contiguous(), values.contiguous(), scale=scale)
    return context


def _attention_of_a_cell(dtype: torch.dtype) -> Callable:
    if dtype == torch.bfloat16:
        return _attention_in_chunks
    return _attention_by_onednn if dtype == torch.float32 and has_slow_products() else F.scaled_dot_product_attention


def _hides_keys(mask: Tensor, query: Tensor) -> bool:
    """Whether a boolean mask hides the same keys from all queries and heads of a cell, and leaves each cell some."""
    if mask.dtype != torch.bool or mask.dim() != 4 or mask.shape[:2] != (len(query), 1):
        return False
    keys = mask[:, :, :1]
    return bool(keys.any(dim=-1).all()) and (mask.stride(2) == 0 or torch.equal(mask, keys.expand_as(mask)))


def _attention_in_chunks(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention of one cell in bfloat16, whose fused attention does its products in single precision.

    Plain products use the processor's own bfloat16. Measured with 2,000 tokens of 12 heads on a Zen 4: 1.4 times as
    fast.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    parts = [
        torch.softmax((part * scale) @ key.transpose(2, 3), dim=-1) @ value
        for part in query.split(QUERIES_PER_CHUNK, dim=2)
    ]
    return torch.cat(parts, dim=2)


def _attention_by_onednn(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Attention of one cell in float32, head by head, because oneDNN multiplies no batches of matrices."""
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    context = query.new_empty(*query.shape[:3], value.shape[-1])
    for head, (queries, keys, values) in enumerate(zip(query[0], key[0], value[0], strict=True)):
        for start in range(0, len(queries), QUERIES_PER_CHUNK):
            chunk = slice(start, start + QUERIES_PER_CHUNK)
            weights = torch.softmax(onednn_linear(queries[chunk], keys), dim=-1)
            context[0, head, chunk] = onednn_linear(weights, values.t())
    return context
