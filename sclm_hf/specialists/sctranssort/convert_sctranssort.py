"""Reads the tensors of the original scTransSort under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import WeightMap

from ..conversion import keras_tensor, make_converter
from .configuration_sctranssort import ScTransSortConfig, side_of
from .modeling_sctranssort import ScTransSortForSequenceClassification

_LAYERS = {"attn.proj": "o_proj", "mlp.fc1": "linear1", "mlp.fc2": "linear2"}


def _names() -> WeightMap:
    names: WeightMap = {"cls": "model.embeddings.cls_token", "pos_embed": "model.embeddings.positions"}
    theirs, ours = "block.{}", "model.layers.{}"
    for kind, new in (("kernel", "weight"), ("bias", "bias")):
        names[f"{theirs}.attn.qkv.{kind}"] = tuple(f"{ours}.{part}_proj.{new}" for part in "qkv")
        names |= {f"{theirs}.{original}.{kind}": f"{ours}.{part}.{new}" for original, part in _LAYERS.items()}
        names[f"patch_embed.{kind}"] = f"model.embeddings.projection.{new}"
        names[f"head.{kind}"] = f"classifier.{new}"
    for kind, new in (("gamma", "weight"), ("beta", "bias")):
        names |= {f"{theirs}.{part}.{kind}": f"{ours}.{part}.{new}" for part in ("norm1", "norm2")}
        names[f"norm.{kind}"] = f"model.norm.{new}"
    return names


WEIGHT_MAP = _names()


def read_config(settings: dict[str, Any]) -> ScTransSortConfig:
    """The configuration of `image_size`, `patch_size`, `embed_dim`, `depth`, `num_genes` and the like."""
    return ScTransSortConfig(
        num_genes=settings["num_genes"],
        image_size=settings["image_size"],
        patch_size=settings["patch_size"],
        hidden_size=settings["embed_dim"],
        num_hidden_layers=settings["depth"],
        num_attention_heads=settings["num_heads"],
        intermediate_size=4 * settings["embed_dim"],
        num_labels=settings["num_classes"],
        crop_genes=side_of(settings["num_genes"]) > settings["image_size"],
    )


convert_checkpoint = make_converter(
    ScTransSortForSequenceClassification, read_config, WEIGHT_MAP, read_tensor=keras_tensor
)
