"""Reads the tensors of the original T-GEM under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import Dropped, WeightMap

from ..conversion import make_converter
from .configuration_tgem import TGEMConfig
from .modeling_tgem import TGEMForSequenceClassification

_ACTIVATION_NAMES = {"nan": "none", "relu": "relu", "leakyrelu": "leaky_relu", "gelu": "gelu"}


def weight_map(settings: dict[str, Any]) -> WeightMap:
    """The table of names; the original numbers its layers from 1."""
    names: WeightMap = {
        "sublayer.norm.a_2": "model.norms.0.weight",
        "sublayer.norm.b_2": "model.norms.0.bias",
    }
    for kind in ("weight", "bias"):
        names[f"fc.{kind}"] = f"classifier.{kind}"
        for number in (1, 2):
            names[f"ffn{number}.{kind}"] = Dropped("a layer that the original makes and does not use")
    for number in range(settings["num_layers"]):
        theirs, ours = f"mulitiattention{number + 1}", f"model.layers.{number}"
        names[f"{theirs}.W_0"] = f"{ours}.head_weight"
        for short, part in {"WQ": "query", "WK": "key", "WV": "value"}.items():
            names[f"{theirs}.{short}"] = f"{ours}.{part}"
    return names


def read_config(settings: dict[str, Any]) -> TGEMConfig:
    """The configuration of `num_genes`, `num_layers`, `num_heads`, `num_classes` and `final_activation`."""
    return TGEMConfig(
        num_genes=settings["num_genes"],
        num_hidden_layers=settings["num_layers"],
        num_attention_heads=settings["num_heads"],
        num_labels=settings["num_classes"],
        final_activation=_ACTIVATION_NAMES[settings["final_activation"]],
    )


convert_checkpoint = make_converter(TGEMForSequenceClassification, read_config, weight_map)
