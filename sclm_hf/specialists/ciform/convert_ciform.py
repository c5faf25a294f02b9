"""Reads the tensors of the original CIForm under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import Dropped, WeightMap
from sclm_hf.modeling.common.patch_encoder import original_names

from ..conversion import make_converter
from .configuration_ciform import CIFormConfig
from .modeling_ciform import CIFormForSequenceClassification

WEIGHT_MAP: WeightMap = {
    **original_names(),
    "positionalEncoding.pe": Dropped("the table of positions, which is computed"),
    **{f"pred_layer.0.{kind}": f"dense.{kind}" for kind in ("weight", "bias")},
    **{f"pred_layer.2.{kind}": f"classifier.{kind}" for kind in ("weight", "bias")},
}


def read_config(settings: dict[str, Any]) -> CIFormConfig:
    """The configuration of `patch_size`, `nhead`, `dim_feedforward` and `num_classes`."""
    return CIFormConfig(
        patch_size=settings["patch_size"],
        num_attention_heads=settings["nhead"],
        intermediate_size=settings["dim_feedforward"],
        num_labels=settings["num_classes"],
    )


convert_checkpoint = make_converter(CIFormForSequenceClassification, read_config, WEIGHT_MAP)
