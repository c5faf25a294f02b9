"""Reads the tensors of the original transCluster under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import Dropped, WeightMap

from ..conversion import keras_tensor, make_converter
from .configuration_transcluster import TransClusterConfig
from .modeling_transcluster import TransClusterForSequenceClassification

_LINEAR = (("kernel", "weight"), ("bias", "bias"))
_NORM = (("gamma", "weight"), ("beta", "bias"))
_ATTENTION = {"WQ": "q_proj", "WK": "k_proj", "WV": "v_proj", "dense": "o_proj"}
_PARTS = {
    "encoder": {
        "attention": "self_attention",
        "layernorm1": "norm1",
        "layernorm2": "norm2",
    },
    "decoder": {
        "mask_attention": "self_attention",
        "attention": "cross_attention",
        "layernorm1": "norm1",
        "layernorm2": "cross_norm",
        "layernorm3": "norm2",
    },
}


def _names() -> WeightMap:
    names: WeightMap = {}
    for stack, parts in _PARTS.items():
        theirs, ours = f"{stack}.layers.{{}}", f"model.{stack}.layers.{{}}"
        names[f"{stack}.embedding"] = f"model.{stack}.embeddings.weight"
        names[f"{stack}.pos_embedding(not trained)"] = Dropped("the table of positions, which is computed")
        for original, part in parts.items():
            if "norm" in part:
                names |= {f"{theirs}.{original}.{kind}": f"{ours}.{part}.{new}" for kind, new in _NORM}
                continue
            for short, projection in _ATTENTION.items():
                names |= {
                    f"{theirs}.{original}.{short}.{kind}": f"{ours}.{part}.{projection}.{new}" for kind, new in _LINEAR
                }
        for number in (1, 2):
            names |= {f"{theirs}.ffn.dense{number}.{kind}": f"{ours}.linear{number}.{new}" for kind, new in _LINEAR}
    for original, part in {"final_dense": "model.output", "conv1d": "model.conv", "classifier": "classifier"}.items():
        names |= {f"{original}.{kind}": f"{part}.{new}" for kind, new in _LINEAR}
    return names


WEIGHT_MAP = _names()


def read_config(settings: dict[str, Any]) -> TransClusterConfig:
    """The configuration of `vocab_size` (without padding), `maxlen`, `model_size` and the like."""
    return TransClusterConfig(
        vocab_size=settings["vocab_size"] + 1,
        num_components=settings["maxlen"],
        hidden_size=settings["model_size"],
        num_hidden_layers=settings["num_layers"],
        num_attention_heads=settings["num_heads"],
        intermediate_size=settings["dff_size"],
        num_labels=settings["num_classes"],
    )


convert_checkpoint = make_converter(
    TransClusterForSequenceClassification, read_config, WEIGHT_MAP, read_tensor=keras_tensor
)
