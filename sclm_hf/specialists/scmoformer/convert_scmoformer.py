"""Reads the tensors of the original scMoFormer under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import Dropped, WeightMap

from ..conversion import make_converter
from .configuration_scmoformer import ScMoFormerConfig
from .modeling_scmoformer import ScMoFormerModel

KINDS = ("weight", "bias")
TWICE = "the original lists the attention among cells twice"
UNREAD = "nothing reads it in the original"


def _linear(original: str, ours: str) -> WeightMap:
    return {f"{original}.{kind}": f"{ours}.{kind}" for kind in KINDS}


def _aggregate(original: str, ours: str) -> WeightMap:
    return _linear(f"{original}.fc_self", f"{ours}.own") | {f"{original}.fc_neigh.weight": f"{ours}.brought.weight"}


def _graph_layer(original: str, ours: str) -> WeightMap:
    names = {"norm1_local": "local_norm", "norm1_attn": "attention_norm", "norm2": "norm"}
    names |= {"ff_linear1": "linear1", "ff_linear2": "linear2", "self_attn.to_out": "self_attn.o_proj"}
    weights = _aggregate(f"{original}.local_model", f"{ours}.local")
    for theirs, one in names.items():
        weights |= _linear(f"{original}.{theirs}", f"{ours}.{one}")
    for part in "qkv":
        weights[f"{original}.self_attn.to_{part}.weight"] = f"{ours}.self_attn.{part}_proj.weight"
    weights[f"{original}.self_attn.fast_attention.projection_matrix"] = f"{ours}.self_attn.features.projection"
    return weights


def _cell_layer(original: str, ours: str) -> WeightMap:
    attention, feed_forward = f"{original}.layers.0.0", f"{original}.layers.0.1"
    names = _linear(f"{attention}.norm", f"{ours}.norm1") | _linear(f"{feed_forward}.norm", f"{ours}.norm2")
    for part in ("q", "k", "v"):
        names |= _linear(f"{attention}.fn.to_{part}", f"{ours}.self_attn.{part}_proj")
    names |= _linear(f"{attention}.fn.to_out", f"{ours}.self_attn.o_proj")
    names[f"{attention}.fn.fast_attention.projection_matrix"] = f"{ours}.self_attn.features.projection"
    for number in (1, 2):
        names |= _linear(f"{feed_forward}.fn.fn.w{number}", f"{ours}.linear{number}")
    return names


def _layer(number: int) -> WeightMap:
    ours, relations = f"layers.{number}", f"sageconvs.{number}.mods"
    names: WeightMap = {
        **_aggregate(f"{relations}.obs", f"{ours}.cell_to_gene"),
        **_aggregate(f"{relations}.rev_obs", f"{ours}.gene_to_cell"),
        **_aggregate(f"{relations}.symbol", f"{ours}.gene_to_protein"),
        **_aggregate(f"{relations}.rev_symbol", f"{ours}.protein_to_gene"),
        **_graph_layer(f"gene_gps.{number}", f"{ours}.genes"),
        **_graph_layer(f"pro_gps.{number}", f"{ours}.proteins"),
        **_linear(f"mlpcell.{number}", f"{ours}.own"),
        **_cell_layer(f"cell_trans.{number}.net", f"{ours}.cells"),
    }
    for unread in ("coexp", "ppi"):
        names |= dict.fromkeys(_aggregate(f"{relations}.{unread}", ""), Dropped(UNREAD))
    names |= dict.fromkeys(_cell_layer(f"cell_trans.{number}.proj_updater.instance", ""), Dropped(TWICE))
    names[f"cell_trans.{number}.proj_updater.calls_since_last_redraw"] = Dropped("a counter of training")
    for kind, name in enumerate(("gene", "protein", "cell")):
        for norm in (1, 2):
            names |= _linear(f"conv_norm{norm}.{3 * number + kind}", f"{ours}.{name}_terms.norm{norm}")
    return names


def weight_map(settings: dict[str, Any]) -> WeightMap:
    """The table of names of a model of some layers."""
    names: WeightMap = {
        **_linear("emb_cell", "embed_cells"),
        **_linear("emb_gene", "embed_genes_by"),
        **_linear("emb_gene_pos_enc", "gene_positions"),
        **_linear("emb_pro_pos_enc", "protein_positions"),
        "emb_protein.weight": "proteins.weight",
        **_linear("mlp_last", "predictor"),
    }
    for number in range(settings["num_conv_layers"]):
        names |= _layer(number)
    return names


def read_config(settings: dict[str, Any]) -> ScMoFormerConfig:
    """The configuration of the sizes `num_genes`, `num_proteins`, `feat_dim`, `hidden`, `num_conv_layers`, … ."""
    return ScMoFormerConfig(
        num_genes=settings["num_genes"],
        num_proteins=settings["num_proteins"],
        feature_size=settings["feat_dim"],
        position_size=settings["pe_dim"],
        hidden_size=settings["hidden"],
        num_hidden_layers=settings["num_conv_layers"],
        num_attention_heads=settings["heads"],
        graph_head_dim=settings["gps_head_dim"],
    )


convert_checkpoint = make_converter(ScMoFormerModel, read_config, weight_map)
