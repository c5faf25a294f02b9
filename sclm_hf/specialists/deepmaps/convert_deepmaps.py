"""Reads the tensors of the original DeepMAPS under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import WeightMap
from sclm_hf.modeling.common.heterogeneous_graph import original_names

from ..conversion import make_converter
from .configuration_deepmaps import DeepMAPSConfig
from .modeling_deepmaps import NODE_TYPES, DeepMAPSModel

_PARTS = {
    "embedding1": "encoder.{}.0",
    "embedding2": "encoder.{}.1",
    "decode1": "decoder.{}.0",
    "decode2": "decoder.{}.1",
    "adapt_ws": "input_proj.{}",
}

WEIGHT_MAP: WeightMap = {
    **original_names(NODE_TYPES, ours="layers"),
    **{
        f"{theirs}.{number}.{kind}": f"{ours.format(name)}.{kind}"
        for theirs, ours in _PARTS.items()
        for number, name in enumerate(NODE_TYPES)
        for kind in ("weight", "bias")
    },
}


def read_config(settings: dict[str, Any]) -> DeepMAPSConfig:
    """The configuration of `mode`, `n_hid`, `n_heads`, `n_layers` and the sizes of inputs."""
    is_raw = settings["mode"] == "raw"
    return DeepMAPSConfig(
        gene_input_size=settings["num_cells"] if is_raw else settings["in_dim"],
        cell_input_size=settings["num_genes"] if is_raw else settings["in_dim"],
        encoder_sizes=[512, 256] if is_raw else [],
        decodes_inputs=is_raw,
        hidden_size=settings["n_hid"],
        num_hidden_layers=settings["n_layers"],
        num_attention_heads=settings["n_heads"],
        num_relations=settings["num_relations"],
        unmatched_edges="zero_logit",
    )


convert_checkpoint = make_converter(DeepMAPSModel, read_config, WEIGHT_MAP)
