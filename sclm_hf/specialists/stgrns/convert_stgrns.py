"""Reads the tensors of the original STGRNS under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import Dropped, WeightMap
from sclm_hf.modeling.common.patch_encoder import original_names

from ..conversion import make_converter
from .configuration_stgrns import STGRNSConfig
from .modeling_stgrns import STGRNSForPairClassification

WEIGHT_MAP: WeightMap = {
    **original_names(),
    "positionalEncoding.pe": Dropped("the table of positions, which is computed"),
    **{f"prenet.{kind}": Dropped("a layer that the original never calls") for kind in ("weight", "bias")},
    **{f"pred_layer.0.{kind}": f"dense.{kind}" for kind in ("weight", "bias")},
    **{f"pred_layer.2.{kind}": f"classifier.{kind}" for kind in ("weight", "bias")},
}


def read_config(settings: dict[str, Any]) -> STGRNSConfig:
    """The configuration of `window`, `nhead`, `dim_feedforward` and `num_classes`."""
    return STGRNSConfig(
        window_size=settings["window"],
        num_attention_heads=settings["nhead"],
        intermediate_size=settings["dim_feedforward"],
        num_labels=settings["num_classes"],
    )


convert_checkpoint = make_converter(STGRNSForPairClassification, read_config, WEIGHT_MAP)
