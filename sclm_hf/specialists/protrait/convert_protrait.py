"""Reads the tensors of the original PROTRAIT under their names."""

from typing import Any

from torch import Tensor

from sclm_hf.modeling.common.conversion import WeightMap

from ..conversion import make_converter
from .configuration_protrait import STEM_POOLS, PROTRAITConfig
from .modeling_protrait import PROTRAITModel

KINDS = ("weight", "bias")
NORM_KINDS = (*KINDS, "running_mean", "running_var", "num_batches_tracked")

OF_A_LAYER = {
    "self_attention.query_linear": "q_proj",
    "self_attention.key_linear": "k_proj",
    "self_attention.value_linear": "v_proj",
    "conv_ffn_1": "linear1",
    "conv_ffn_2": "linear2",
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
}


def read_config(settings: dict[str, Any]) -> PROTRAITConfig:
    """The configuration of `seq_len`, `seq_len_up_bound`, `d_model`, `n_heads` and `n_cells`."""
    return PROTRAITConfig(
        num_cells=settings["n_cells"],
        sequence_length=settings["seq_len"],
        longest_without_stem=settings["seq_len_up_bound"],
        hidden_size=settings["d_model"],
        num_attention_heads=settings["n_heads"],
        deterministic_sampling=False,
    )


def weight_map(settings: dict[str, Any]) -> WeightMap:
    """The table of names; the original counts from 1."""
    parts = {"prediction.linear": "cells", "bottle_neck.linear": "bottleneck.dense"}
    parts |= {"bottle_neck.linear_norm": "bottleneck.dense_norm", "bottle_neck.conv": "bottleneck.conv"}
    norms = {"bottle_neck.conv_norm": "bottleneck.conv_norm"}
    config = read_config(settings)
    for place in range(config.num_hidden_layers):
        original = f"encoder.encoder_layer_{place + 1}"
        parts |= {f"{original}.{name}": f"layers.{place}.{ours}" for name, ours in OF_A_LAYER.items()}
        parts[f"encoder.pooling_layer_{place + 1}.conv_layer"] = f"pools.{place}.conv"
        norms[f"encoder.pooling_layer_{place + 1}.norm"] = f"pools.{place}.norm"
    if not config.has_stem:
        parts["embedding.base_pair_embedding.base_pair_conv"] = "embedding.conv"
    for place in range(len(STEM_POOLS) if config.has_stem else 0):
        original = f"embedding.stem_embedding.stem_layer_{place + 1}"
        parts[f"{original}.stem_conv"] = f"embedding.stem.{place}.conv"
        norms[f"{original}.stem_norm"] = f"embedding.stem.{place}.norm"
    return {
        **{f"{name}.{kind}": f"{ours}.{kind}" for name, ours in parts.items() for kind in KINDS},
        **{f"{name}.{kind}": f"{ours}.{kind}" for name, ours in norms.items() for kind in NORM_KINDS},
    }


def read_tensor(name: str, tensor: Tensor) -> Tensor:
    """Convolutions of one position as linear layers."""
    return tensor.squeeze(-1) if ".conv_ffn_" in name and name.endswith("weight") else tensor


convert_checkpoint = make_converter(PROTRAITModel, read_config, weight_map, read_tensor=read_tensor)
