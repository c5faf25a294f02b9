"""Reads the tensors of the original scMVP under their names."""

from typing import Any

from sclm_hf.modeling.common.conversion import Dropped, WeightMap

from ..conversion import make_converter
from .configuration_scmvp import ScMVPConfig
from .modeling_scmvp import ScMVPModel

KINDS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def _linear(original: str, ours: str) -> WeightMap:
    return {f"{original}.{kind}": f"{ours}.{kind}" for kind in KINDS}


def _layer(original: str, ours: str) -> WeightMap:
    original = f"{original}.fc_layers.Layer 0"
    norms = {f"{original}.3.{kind}": f"{ours}.batch_norm.{kind}" for kind in (*KINDS, *STATISTICS)}
    return _linear(f"{original}.0", f"{ours}.dense") | _linear(f"{original}.1", f"{ours}.norm") | norms


def _attention(original: str, ours: str) -> WeightMap:
    names: WeightMap = {}
    for part in "qkv":
        names |= _linear(f"{original}.w_{part}", f"{ours}.{part}_proj")
    return names


def _pair(original: str, ours: str) -> WeightMap:
    return _linear(f"{original}.0", f"{ours}.0") | _linear(f"{original}.1", f"{ours}.1")


def _head(original: str, ours: str) -> WeightMap:
    return _linear(f"{original}.mean_encoder", f"{ours}.mean") | _linear(
        f"{original}.var_encoder", f"{ours}.log_variance"
    )


def _dropped(prefix: str, names: WeightMap, reason: str) -> WeightMap:
    return {f"{prefix}.{name}": Dropped(reason) for name in names}


DECODER = "RNA_ATAC_decoder"
UNREAD = "the original computes it, or not even that, and nothing reads it"

WEIGHT_MAP: WeightMap = {
    **_layer("RNA_encoder.encoder", "rna_encoder.layer"),
    **_pair("RNA_encoder.px_decoder_aux", "rna_encoder.gate"),
    **_head("RNA_encoder", "rna_head"),
    **_layer("ATAC_encoder.encoder", "atac_encoder.layer"),
    **_attention("ATAC_encoder", "atac_encoder.attention"),
    **_head("ATAC_encoder", "atac_head"),
    **_layer("RNA_ATAC_encoder.scRNA_encoder", "joint_encoder.rna.layer"),
    **_pair("RNA_ATAC_encoder.RNA_encoder_aux", "joint_encoder.rna.gate"),
    **_layer("RNA_ATAC_encoder.scATAC_encoder", "joint_encoder.atac.layer"),
    **_attention("RNA_ATAC_encoder", "joint_encoder.atac.attention"),
    **_linear("RNA_ATAC_encoder.concat", "joint_encoder.joined"),
    **_linear("RNA_ATAC_encoder.layernorm", "joint_encoder.norm"),
    **_head("RNA_ATAC_encoder", "joint_head"),
    **_linear("concatenter", "concatenated"),
    **_layer(f"{DECODER}.cluster_decoder", "decoder.components"),
    **_layer(f"{DECODER}.scRNA_decoder", "decoder.rna_layer"),
    **_layer(f"{DECODER}.scATAC_decoder", "decoder.atac_layer"),
    **_attention(DECODER, "decoder.attention"),
    **_pair(f"{DECODER}.rna_scale_decoder", "decoder.rna_scale"),
    **_pair(f"{DECODER}.atac_scale_decoder", "decoder.atac_scale"),
    **_pair(f"{DECODER}.px_rna_decoder_aux", "decoder.rna_gate"),
    **_pair(f"{DECODER}.px_atac_decoder_aux", "decoder.atac_gate"),
    **_linear(f"{DECODER}.atac_dropout_decoder", "decoder.atac_dropout"),
    **_linear(f"{DECODER}.rna_dropout_decoder", "decoder.rna_dropout"),
    **_linear(f"{DECODER}.rna_r_decoder", "decoder.rna_dispersion"),
    **_linear(f"{DECODER}.atac_r_decoder", "decoder.atac_dispersion"),
    **_linear("l_encoder.encoder.fc_layers.Layer 0.0", "library_encoder.dense"),
    **_linear("l_encoder.encoder.fc_layers.Layer 0.1", "library_encoder.norm"),
    **_head("l_encoder", "library_encoder.head"),
    "pi": "mixture.weight",
    "mu_c": "mixture.mean",
    "var_c": "mixture.variance",
    "px_r": "rna_log_dispersion",
    "p_atac_r": Dropped(UNREAD),
    "counter": Dropped(UNREAD),
    **_dropped("ATAC_encoder", _pair("px_encoder_aux", "") | _linear("layernorm", ""), UNREAD),
    **_dropped(DECODER, _layer("libaray_decoder", ""), UNREAD),
    **_dropped(DECODER, _linear("libaray_rna_scale_decoder.0", ""), UNREAD),
    **_dropped(DECODER, _linear("libaray_atac_scale_decoder.0", ""), UNREAD),
}


def read_config(settings: dict[str, Any]) -> ScMVPConfig:
    """The configuration of the sizes `RNA_input`, `ATAC_input`, `n_hidden`, `n_latent`, `n_centroids` and `n_heads`.

    It does what the published code does, which its weights were trained for.
    """
    return ScMVPConfig(
        num_genes=settings["RNA_input"],
        num_peaks=settings["ATAC_input"],
        hidden_size=settings["n_hidden"],
        latent_size=settings["n_latent"],
        num_components=settings["n_centroids"],
        num_attention_heads=settings["n_heads"],
        component_deviation=0,
        variance_as_log_variance=True,
        normalize_mixture=False,
        softmax_of_components=True,
        prefer_few_components=True,
        has_density_floor=True,
        has_unused_parts=True,
    )


convert_checkpoint = make_converter(ScMVPModel, read_config, WEIGHT_MAP)
