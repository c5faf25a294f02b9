"""Reads a released UCE: `4layer_model.torch` (or the large one), and the tables of species that belong to it."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sclm_hf.errors import CheckpointError, MissingFileError
from sclm_hf.modeling.common.conversion import (
    LoadingReport,
    WeightMap,
    build_model,
    convert_weights,
    converter,
    damage_is_told,
    write_checkpoint,
)
from sclm_hf.modeling.common.legacy import (
    read_json_object,
    read_pickle,
    read_state_dict,
    read_torch_file,
    require_file,
    require_stored,
)
from sclm_hf.modeling.common.soundness import is_finite, number_kind
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer

from .configuration_uce import UCEConfig
from .modeling_uce import UCEForMaskedExpression
from .processing_uce import SPECIAL_TOKENS, ChromosomeProcessor, chromosome_token, gene_token

TOKENS_FILE, CHROMOSOMES_FILE, OFFSETS_FILE = "all_tokens.torch", "species_chrom.csv", "species_offsets.pkl"
SETTINGS_FILE = "config.json"
"""Not part of the release: settings that differ from the release's, under the names of the original's arguments."""

SPECIES = {
    "Danio_rerio": "zebrafish",
    "Homo_sapiens": "human",
    "Macaca_fascicularis": "macaca_fascicularis",
    "Macaca_mulatta": "macaca_mulatta",
    "Microcebus_murinus": "mouse_lemur",
    "Mus_musculus": "mouse",
    "Sus_scrofa": "pig",
    "Xenopus_tropicalis": "frog",
}
"""What the names of the released protein files begin with -> the species' name in the tables."""

_RELEASED_ROWS, _RELEASED_CHROMOSOME_OFFSET = 145469, 143574
_CHROMOSOME_SEED = 23
_HEAD_SIZE = 64
_PROTEINS = "pe_embedding.weight"

_LAYER, _OURS = "transformer_encoder.layers.{}.", "model.layers.{}."

WEIGHT_MAP: WeightMap = {
    "pos_encoder.pe": "model.embeddings.positions.table",
    **{
        f"{original}.{kind}": f"{ours}.{kind}"
        for kind in ("weight", "bias")
        for original, ours in {
            "encoder.0": "model.embeddings.projection.linear",
            "encoder.2": "model.embeddings.projection.norm",
            _LAYER + "self_attn.out_proj": _OURS + "self_attn.o_proj",
            _LAYER + "linear{}": _OURS + "linear{}",
            _LAYER + "norm{}": _OURS + "norm{}",
            "decoder.{}.0": "model.decoder.blocks.{}.linear",
            "decoder.{}.1": "model.decoder.blocks.{}.norm",
            "decoder.3": "model.decoder.output",
            "gene_embedding_layer.0": "gene_projection.linear",
            "gene_embedding_layer.2": "gene_projection.norm",
            "binary_decoder.{}.0": "expression_decoder.blocks.{}.linear",
            "binary_decoder.{}.1": "expression_decoder.blocks.{}.norm",
            "binary_decoder.3": "expression_decoder.output",
        }.items()
    },
    **{
        f"{_LAYER}self_attn.in_proj_{kind}": tuple(f"{_OURS}self_attn.{part}_proj.{kind}" for part in "qkv")
        for kind in ("weight", "bias")
    },
}


class SpeciesTables(NamedTuple):
    """What the release says of genes.

    Attributes:
        tokens: token -> id, special tokens and chromosomes included.
        special_tokens: those that are no genes.
        gene_places: species -> gene -> (chromosome, start).
    """

    tokens: dict[str, int]
    special_tokens: tuple[str, ...]
    gene_places: dict[str, dict[str, tuple[str, int]]]


@converter
def convert_checkpoint(source: Path, output: Path) -> LoadingReport:
    """Convert a released UCE into a folder that `Auto*.from_pretrained` opens, processor included.

    Args:
        source: folder with one file of weights (`4layer_model.torch`, …), `species_chrom.csv`, `species_offsets.pkl`
            and, in it or in folders of it, the protein embeddings of the species wanted
            (`Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt`, …; for other species `<species>.pt`). With an
            `all_tokens.torch` of other proteins than those of the weights, as one makes it for a new species, the
            model gets that table. Settings other than the release's are read from `config.json`.
        output: folder to write: configuration, safetensors, the protein table in a file of its own, tokenizer,
            processor with the tables of species as JSON, and `loading_report.json`.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: a file is missing, unsafe or damaged; a tensor is unknown, missing or of another shape; the
            tables do not fit one another.
        ConfigurationError: `output` is no empty folder, or another run is writing it.
    """
    weights_file = _weights_file(source)
    settings = read_json_object(source / SETTINGS_FILE) if (source / SETTINGS_FILE).exists() else {}
    with damage_is_told(source / CHROMOSOMES_FILE):
        chromosomes = read_chromosomes(source / CHROMOSOMES_FILE)
    tensors = read_state_dict(weights_file)
    report = LoadingReport("uce", [weights_file.name, CHROMOSOMES_FILE, OFFSETS_FILE])
    report.architecture = UCEForMaskedExpression.__name__
    with damage_is_told(source):
        with damage_is_told(weights_file):
            config = build_config(settings, tensors)
        proteins, chromosome_offset = _proteins(source, tensors.pop(_PROTEINS), chromosomes, settings, report)
        tables = read_species(source, chromosomes, chromosome_offset, proteins.shape[0], report)
        tensors["pos_encoder.pe"] = tensors["pos_encoder.pe"].squeeze(1)
        weights = convert_weights(tensors, WEIGHT_MAP, weights_file, report)
        _require_numbers(proteins, weights_file)
        model = build_model(UCEForMaskedExpression, config, weights, weights_file)
        model.set_protein_embeddings(proteins)
        processor = build_processor(config, settings, tables)
    report.renamed[_PROTEINS] = ["protein_embeddings.safetensors"]
    report.notes.append("it holds no cell classifier: `AutoModelForSequenceClassification` starts it at random")

    write_checkpoint(output, model, processor, report)
    return report


def build_config(settings: dict[str, Any], tensors: dict[str, Tensor]) -> UCEConfig:
    """The configuration that the shapes of the tensors and `config.json` tell together."""
    rows, protein_size = _shape(tensors, _PROTEINS)
    hidden_size = _shape(tensors, "encoder.0.weight")[0]
    if "nhead" not in settings and hidden_size % _HEAD_SIZE:
        raise CheckpointError(
            f"Weights of width {hidden_size} are no released UCE, and do not tell how many heads attention has: put "
            f'a `{SETTINGS_FILE}` with {{"nhead": …}} beside them.'
        )
    layers = {name.split(".")[2] for name in tensors if name.startswith("transformer_encoder.layers.")}
    blocks = [f"binary_decoder.{number}.0.weight" for number in range(3)]
    return UCEConfig(
        vocab_size=rows,
        protein_embedding_size=protein_size,
        hidden_size=hidden_size,
        num_hidden_layers=len(layers),
        num_attention_heads=settings.get("nhead", hidden_size // _HEAD_SIZE),
        intermediate_size=_shape(tensors, "transformer_encoder.layers.0.linear1.weight")[0],
        hidden_dropout_prob=settings.get("dropout", 0.05),
        max_position_embeddings=_shape(tensors, "pos_encoder.pe")[0],
        decoder_size=_shape(tensors, "decoder.0.0.weight")[0],
        cell_embedding_size=_shape(tensors, "decoder.3.weight")[0],
        expression_decoder_sizes=[_shape(tensors, name)[0] for name in blocks],
    )


def build_processor(config: UCEConfig, settings: dict[str, Any], tables: SpeciesTables) -> ChromosomeProcessor:
    """The processor of the published procedure for the species at hand."""
    extractor = ExpressionFeatureExtractor.for_family(
        "uce",
        n_draws=settings.get("sample_size", 1024),
        max_length=min(settings.get("pad_length", 1536), config.max_position_embeddings),
        gene_places=tables.gene_places,
    )
    return ChromosomeProcessor(
        extractor, GeneTokenizer.from_genes(tables.tokens, special_tokens=tables.special_tokens)
    )


def read_chromosomes(path: Path) -> dict[tuple[str, str], tuple[str, int]]:
    """(species, gene in capitals) -> (chromosome, start), of a CSV file; of a gene that is there twice, the first.

    Raises:
        CheckpointError: the file is missing, lacks a column, or a start is no number.
    """
    require_file(path)
    places: dict[tuple[str, str], tuple[str, int]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                place = row["chromosome"], int(float(row["start"]))
                places.setdefault((row["species"], row["gene_symbol"].upper()), place)
    except (KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise CheckpointError(
            f"`{path}` must hold the columns species, gene_symbol, chromosome and start ({error!r})."
        ) from error
    return places


def read_species(
    source: Path,
    chromosomes: dict[tuple[str, str], tuple[str, int]],
    chromosome_offset: int,
    rows: int,
    report: LoadingReport,
) -> SpeciesTables:
    """Name the rows of the protein table: the genes of the species whose protein files are there, and chromosomes.

    Raises:
        CheckpointError: there is no protein file, a species is unknown, or rows are named twice or do not exist.
    """
    offsets = read_pickle(source / OFFSETS_FILE)
    if not isinstance(offsets, dict) or not all(isinstance(value, int) for value in offsets.values()):
        raise CheckpointError(f"`{source / OFFSETS_FILE}` must hold a dictionary species -> first token.")
    named = sorted(
        {f"{species}_{place[0]}": (species, place[0]) for (species, _), place in chromosomes.items()}.items()
    )
    if chromosome_offset + len(named) > rows:
        raise CheckpointError(
            f"`{CHROMOSOMES_FILE}` names {len(named)} chromosomes, and the protein table has {rows} rows of which "
            f"they begin at {chromosome_offset}: take both from the same release."
        )
    special = {token: number for number, token in enumerate(SPECIAL_TOKENS)}
    special |= {chromosome_token(*which): chromosome_offset + code for code, (_, which) in enumerate(named)}
    tokens, places = dict(special), {}
    for species, genes in _genes_by_species(source, offsets).items():
        last = offsets[species] + len(genes)
        if offsets[species] < len(SPECIAL_TOKENS) or last > chromosome_offset:
            raise CheckpointError(
                f"The {len(genes):,} genes of {species} take the rows up to {last}, and chromosomes begin at "
                f"{chromosome_offset}: take `{OFFSETS_FILE}` and the protein files from the same release."
            )
        tokens |= {gene_token(species, gene): offsets[species] + number for number, gene in enumerate(genes)}
        places[species] = {gene: chromosomes[species, gene] for gene in genes if (species, gene) in chromosomes}
        report.notes.append(f"{species}: {len(places[species]):,} genes")
        if lost := len(genes) - len(places[species]):
            report.notes.append(f"{species}: {lost:,} more genes have no place in `{CHROMOSOMES_FILE}`, and no use")
    return SpeciesTables(tokens, tuple(special), places)


def _genes_by_species(source: Path, offsets: dict[str, int]) -> dict[str, list[str]]:
    """The genes of each protein file, in capitals, in the order of its rows."""
    found: dict[str, list[str]] = {}
    for file in sorted(source.rglob("*.pt")):
        prefix = file.name.split(".")[0]
        species = SPECIES.get(prefix, prefix)
        if species not in offsets:
            raise CheckpointError(
                f"`{file}` is of the species `{species}`, which `{OFFSETS_FILE}` does not have ({', '.join(offsets)})."
            )
        embeddings = read_torch_file(file)
        if not isinstance(embeddings, dict) or not all(isinstance(gene, str) for gene in embeddings):
            raise CheckpointError(f"`{file}` must hold a dictionary gene -> protein embedding.")
        found[species] = list(dict.fromkeys(gene.upper() for gene in embeddings))
    if not found:
        raise CheckpointError(
            f"There is no protein file (`*.pt`) in `{source}`: the order of its genes tells their tokens. Put that of "
            "each species wanted there, such as Homo_sapiens.GRCh38.gene_symbol_to_embedding_ESM2.pt."
        )
    return found


def _proteins(
    source: Path,
    released: Tensor,
    chromosomes: dict[tuple[str, str], tuple[str, int]],
    settings: dict[str, Any],
    report: LoadingReport,
) -> tuple[Tensor, int]:
    """The protein table, and the row at which chromosomes begin in it."""
    offset = settings.get("CHROM_TOKEN_OFFSET")
    if offset is None and released.shape[0] != _RELEASED_ROWS:
        raise CheckpointError(
            f"A protein table of {released.shape[0]:,} rows is not the released one, and does not tell where "
            f'chromosomes begin: put {{"CHROM_TOKEN_OFFSET": …}} into a `{SETTINGS_FILE}` beside the weights.'
        )
    offset = _RELEASED_CHROMOSOME_OFFSET if offset is None else offset
    if not (source / TOKENS_FILE).exists():
        return released, offset
    tokens = read_torch_file(source / TOKENS_FILE)
    if isinstance(tokens, Tensor):
        require_stored(tokens, "the table", source / TOKENS_FILE)
        _require_numbers(tokens, source / TOKENS_FILE)
    if not isinstance(tokens, Tensor) or tokens.ndim != 2 or tokens.shape[1] != released.shape[1]:
        raise CheckpointError(f"`{source / TOKENS_FILE}` must hold a (proteins, {released.shape[1]}) tensor.")
    report.source.append(TOKENS_FILE)
    if tokens.shape[0] == offset:
        report.notes.append(
            f"`{TOKENS_FILE}` has the proteins that the weights have: the table is that of the weights"
        )
        return released, offset
    n_chromosomes = len({(species, place[0]) for (species, _), place in chromosomes.items()})
    n_chromosomes = max(n_chromosomes, released.shape[0] - offset)
    generator = torch.Generator().manual_seed(_CHROMOSOME_SEED)
    drawn = torch.normal(0.0, 1.0, (n_chromosomes, tokens.shape[1]), generator=generator)
    report.notes.append(
        f"the protein table is `{TOKENS_FILE}` ({tokens.shape[0]:,} rows) and {n_chromosomes:,} chromosomes drawn at "
        f"random as the original draws them, in place of the {released.shape[0]:,} rows of the weights"
    )
    return torch.cat([tokens.float(), drawn]), tokens.shape[0]


def _require_numbers(proteins: Tensor, path: Path) -> None:
    if number_kind(proteins) != "float" or not is_finite(proteins):
        raise CheckpointError(f"The protein embeddings of `{path}` must be finite numbers: the file is damaged.")


def _weights_file(source: Path) -> Path:
    files = [file for file in sorted(source.glob("*.torch")) if file.name != TOKENS_FILE]
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise MissingFileError(
            f"`{source}` must hold one file of weights, such as 4layer_model.torch; found: {found}."
        )
    return files[0]


def _shape(tensors: dict[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise CheckpointError(f"The weights lack `{name}`: they are no UCE checkpoint, or incomplete.")
    return tuple(tensors[name].shape)
