"""Reads the tensors of the original TransformerST under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import WeightMap

from ..conversion import make_converter
from .configuration_transformerst import TransformerSTConfig
from .modeling_transformerst import TransformerSTModel

KINDS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _layer(original: str, ours: str) -> WeightMap:
    linear = {f"{original}.0.{kind}": f"{ours}.0.{kind}" for kind in KINDS}
    return linear | {f"{original}.1.{kind}": f"{ours}.1.{kind}" for kind in (*KINDS, *STATISTICS)}


def _attention(original: str, ours: str) -> WeightMap:
    parts = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "skip": "skip_proj"}
    return {
        f"{original}.lin_{theirs}.{kind}": f"{ours}.attention.{name}.{kind}"
        for theirs, name in parts.items()
        for kind in KINDS
    }


WEIGHT_MAP: WeightMap = {
    **_layer("encoder.encoder_L1", "encoder.0"),
    **_layer("encoder.encoder_L2", "encoder.1"),
    **_layer("decoder.decoder_L1", "decoder"),
    **_attention("gc1", "layers.0"),
    **_attention("conv_hidden.0", "layers.1"),
    **_attention("gc2", "layers.2"),
    "quantize.embedding.weight": "codebook.weight",
    "cluster_layer": "clusters.centres",
}


def read_config(settings: dict[str, Any]) -> TransformerSTConfig:
    """The configuration of the sizes `input_dim`, `feat_hidden1`, `gcn_hidden1`, `gcn_hidden2`, `num_codes`, … .

    It does what the published code does, which its weights were trained for.
    """
    return TransformerSTConfig(
        num_genes=settings["input_dim"],
        feature_hidden_size=settings["feat_hidden1"],
        code_size=settings["code_dim"],
        num_codes=settings["num_codes"],
        graph_hidden_size=settings["gcn_hidden1"],
        graph_output_size=settings["gcn_hidden2"],
        num_clusters=settings["dec_cluster_n"],
        mix=settings["mix"],
        code_loss_weight=0,
        is_chained=True,
        along_edges=False,
    )


convert_checkpoint = make_converter(TransformerSTModel, read_config, WEIGHT_MAP)
