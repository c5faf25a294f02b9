"""Reads the tensors of the original MarsGT under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import WeightMap
from sclm_hf.modeling.common.heterogeneous_graph import original_names

from ..conversion import make_converter
from .configuration_marsgt import MarsGTConfig
from .modeling_marsgt import NODE_TYPES, MarsGTModel

WEIGHT_MAP: WeightMap = {
    **original_names(NODE_TYPES, ours="layers", theirs="gnn.gcs"),
    **{
        f"gnn.{theirs}.{number}.{kind}": f"{ours}.{name}.{kind}"
        for theirs, ours in {"embedding1": "encoder", "adapt_ws": "input_proj"}.items()
        for number, name in enumerate(NODE_TYPES)
        for kind in ("weight", "bias")
    },
    **{f"net.fc1.{kind}": f"pair_proj.{kind}" for kind in ("weight", "bias")},
}


def read_config(settings: dict[str, Any]) -> MarsGTConfig:
    """The configuration of `num_genes`, `num_cells`, `n_hid`, `n_heads`, `n_layers` and so on, as published."""
    return MarsGTConfig(
        cell_input_size=settings["num_genes"],
        feature_input_size=settings["num_cells"],
        hidden_size=settings["n_hid"],
        num_hidden_layers=settings["n_layers"],
        num_attention_heads=settings["n_heads"],
        num_relations=settings["num_relations"],
        label_smoothing=settings["label_smoothing"],
        unmatched_edges="zero_logit",
        pairs="all",
        pair_target="misaligned",
    )


convert_checkpoint = make_converter(MarsGTModel, read_config, WEIGHT_MAP)
