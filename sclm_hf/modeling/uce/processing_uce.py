"""What UCE reads: sentences of genes in genomic order, of cells and genes that pass the published filter."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse

from sclm_hf.errors import ConfigurationError, ExpressionError
from sclm_hf.tokenization.encodings.cells import CellTokens
from sclm_hf.tokenization.encodings.chromosomes import (
    Genome,
    Sentence,
    compact,
    encode_chromosomes,
    most_tokens,
    published_draws,
)
from sclm_hf.tokenization.encodings.scratch import Scratch
from sclm_hf.tokenization.expression_matrix import as_csr, read_cells, read_genes, refuse_rows
from sclm_hf.tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from sclm_hf.tokenization.genes.gene_coverage import SPECIES
from sclm_hf.tokenization.genes.gene_resolution import GeneResolver, Resolution
from sclm_hf.tokenization.genes.gene_species import species_of_ids, species_of_symbols
from sclm_hf.tokenization.genes.gene_table import Step
from sclm_hf.tokenization.genes.gene_vocabulary import GeneMapping, GeneVocabulary, named_species
from sclm_hf.tokenization.genes.tokenization_gene import GeneTokenizer
from sclm_hf.tokenization.processing_cell import CellProcessor

CLOSE_TOKEN = "</chromosome>"
SPECIAL_TOKENS = ("<pad>", "<chromosome>", CLOSE_TOKEN, "<cls>")
"""The first four tokens; `<chromosome>` is a place that is kept and not used."""

_FIRST_SPECIES = "human"


def gene_token(species: str, gene: str) -> str:
    """The token of a gene: of human genes their symbol, of others `species:SYMBOL`."""
    return gene if species == _FIRST_SPECIES else f"{species}:{gene}"


def chromosome_token(species: str, chromosome: str) -> str:
    """The token of a chromosome, such as `<human:7>`."""
    return f"<{species}:{chromosome}>"


class ChromosomeProcessor(CellProcessor):
    """The processor of UCE: genes drawn by their expression, chromosome by chromosome.

    Which genes are drawn depends on the cell's id, `seed` and `epoch` alone. Genes are found by the symbols of the
    cells' own species, capitals or not; human ones by their other names too. A gene needs a place in the genome.

    Args:
        feature_extractor: with the encoding `chromosomes` and `gene_places`.
        tokenizer: the tokens of genes and chromosomes, see [`gene_token`] and [`chromosome_token`].

    Raises:
        ConfigurationError: the feature extractor is of another encoding, or lacks `gene_places`.
    """

    def __init__(self, feature_extractor, tokenizer) -> None:
        super().__init__(feature_extractor, tokenizer)
        if feature_extractor.encoding != "chromosomes" or not feature_extractor.gene_places:
            raise ConfigurationError(
                "A `ChromosomeProcessor` needs a feature extractor with the encoding `chromosomes` and `gene_places`, "
                "which tell where genes lie: take the one that the model was converted with."
            )

    @classmethod
    def example(cls, genes: Sequence[str], **settings: Any) -> "ChromosomeProcessor":
        """A processor for tests and examples, whose human `genes` lie in this order on one made-up chromosome.

        Args:
            genes: symbols.
            **settings: parameters of the feature extractor other than the published ones; 32 genes are drawn.
        """
        places = {gene.upper(): ("1", number) for number, gene in enumerate(genes)}
        special = (*SPECIAL_TOKENS, chromosome_token(_FIRST_SPECIES, "1"))
        settings = {"n_draws": 32, "gene_places": {_FIRST_SPECIES: places}, **settings}
        extractor = ExpressionFeatureExtractor.for_family("uce", **settings)
        return cls(extractor, GeneTokenizer.from_genes(list(places), special_tokens=special))

    @property
    def species(self) -> tuple[str, ...]:
        """The species whose genes it knows."""
        return tuple(self.feature_extractor.gene_places)

    def map_genes(
        self,
        names: Sequence[str],
        *,
        ensembl_ids: Sequence[str] | None = None,
        species: str | None = None,
        counts: np.ndarray | None = None,
    ) -> GeneMapping:
        """Find the ids of a data set's genes among those of `species`.

        Arguments and errors are those of [`CellProcessor.map_genes`], but `species` may be any of [`species`], and
        none of them goes through orthologs. Ensembl ids of human genes alone stand for names.
        """
        if species is None:
            named = named_species(names, ensembl_ids)
            species = named if named in self.species else _FIRST_SPECIES
        vocabulary = self._vocabulary(species)
        mapping = vocabulary.map_genes(names, ensembl_ids=ensembl_ids, species=SPECIES[0], counts=counts)
        coverage = replace(mapping.coverage, species=species, served=self.species)
        self.last_coverage = coverage
        return replace(mapping, coverage=coverage)

    def check_tokens(self) -> None:
        """Refuse a tokenizer that lacks a special token, or a gene or chromosome of `gene_places`.

        Raises:
            ConfigurationError: names the token.
        """
        super().check_tokens()
        self._genome  # noqa: B018 (looks all of them up)

    def encode(
        self,
        matrix,
        gene_ids: np.ndarray,
        *,
        random_state: np.random.RandomState | None = None,
        check: bool = True,
        num_threads: int = 1,
        **which,
    ) -> dict[str, np.ndarray]:
        """Turn rows of a matrix into a padded batch.

        Arguments and errors are those of [`CellProcessor.encode`], and:

        Args:
            random_state: numpy's legacy generator, from which the draws are taken cell by cell, and genes in the order
                of their columns, as the published procedure takes them; None for draws keyed by the cell.

        Returns:
            `input_ids` and `attention_mask`, (batch, tokens) int64.
        """
        return self.padded(
            self.tokens(matrix, gene_ids, random_state=random_state, check=check, num_threads=num_threads, **which)
        )

    def tokens(
        self,
        matrix,
        gene_ids: np.ndarray,
        *,
        cell_ids,
        seed: int = 0,
        epoch: int = 0,
        rows: np.ndarray | None = None,
        uniforms: np.ndarray | None = None,
        totals: np.ndarray | None = None,
        check: bool = True,
        num_threads: int = 1,
        scratch: Scratch | None = None,
        random_state: np.random.RandomState | None = None,
    ) -> CellTokens:
        """Tokens of cells before padding, the first half of [`encode`]."""
        self._refuse_pointless(uniforms, totals)
        scratch = scratch or Scratch()
        as_columns = random_state is not None
        genes, found, _ = read_genes(matrix, self._columns(gene_ids), rows, None, scratch, as_columns=as_columns)
        keys = self._keys(found, cell_ids, seed, epoch, check)
        most = most_tokens(found.genes, self.feature_extractor.n_draws, self._n_chromosomes)
        out = self._room(most, scratch)
        genome, sentence = self._genome, self._sentence
        draws = None if random_state is None else published_draws(genes, genome, sentence, random_state)
        encode_chromosomes(genes, keys, genome, sentence, out, draws=draws, num_threads=num_threads)
        refuse_rows(out.lengths == 0, found.rows, "no known gene with a count of 1 or more", "leave them out.")
        longest = self.feature_extractor.max_length
        if longest is not None:
            what = f"more than `max_length` {longest} tokens"
            refuse_rows(out.lengths > longest, found.rows, what, "draw fewer genes (`n_draws`).")
        return compact(out)

    def lengths(self, matrix, gene_ids: np.ndarray, *, rows: np.ndarray | None = None) -> np.ndarray:
        """How many tokens each cell will have at most, see [`CellProcessor.lengths`].

        Only drawing the genes shows on how many chromosomes they lie.
        """
        _, found = read_cells(matrix, self._columns(gene_ids), rows)
        most = most_tokens(found.genes, self.feature_extractor.n_draws, self._n_chromosomes)
        longest = self.feature_extractor.max_length
        return np.where(found.genes > 0, most if longest is None else np.minimum(most, longest), 0)

    @functools.cached_property
    def _sentence(self) -> Sentence:
        extractor = self.feature_extractor
        close_id = self.tokenizer.convert_tokens_to_ids(CLOSE_TOKEN)
        return Sentence(extractor.n_draws, self.tokenizer.cls_token_id, close_id, extractor.whole_counts)

    @functools.cached_property
    def _genome(self) -> Genome:
        """Where genes lie; genes that start at the same place are in the order of their ids."""
        size = self.tokenizer.gene_vocabulary.size
        chromosomes, starts = np.full(size, -1, np.int32), np.zeros(size, np.int64)
        for species, genes in self.feature_extractor.gene_places.items():
            for gene, (chromosome, start) in genes.items():
                token = self._id(gene_token(species, gene))
                chromosomes[token], starts[token] = self._id(chromosome_token(species, chromosome)), start
        places = np.empty(size, np.int64)
        places[np.lexsort((np.arange(size), starts, chromosomes))] = np.arange(size)
        return Genome(chromosomes, places)

    @functools.cached_property
    def _n_chromosomes(self) -> int:
        return len(np.unique(self._genome.chromosomes)) - 1

    def _vocabulary(self, species: str) -> "SpeciesVocabulary":
        known = self.feature_extractor.gene_places
        if species not in known:
            raise ConfigurationError(
                f"The processor knows no genes of the species `{species}`: expected one of {', '.join(known)}."
            )
        if species not in self._vocabularies:
            genes = {gene: self._id(gene_token(species, gene)) for gene in known[species]}
            self._vocabularies[species] = SpeciesVocabulary(genes, species)
        return self._vocabularies[species]

    def _id(self, token: str) -> int:
        if token not in self._ids:
            raise ConfigurationError(
                f"`gene_places` of the feature extractor names `{token}`, which the tokenizer lacks: take both from "
                "the same checkpoint."
            )
        return self._ids[token]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    @functools.cached_property
    def _vocabularies(self) -> dict[str, "SpeciesVocabulary"]:
        return {}


class SpeciesVocabulary(GeneVocabulary):
    """The genes of one species, named in capitals.

    Args:
        token_to_id: name of a gene -> id.
        species: whose genes they are.
    """

    def __init__(self, token_to_id: dict[str, int], species: str) -> None:
        super().__init__(token_to_id, special_tokens=())
        self.species = species

    def _other_species(self, names: Sequence[str], ids: Sequence[str], species: str) -> tuple[str, ...]:
        # symbols of human and mouse alone are told from others
        found = species_of_ids(names, ids) or (species_of_symbols(names) if self.species in SPECIES else ())
        return () if found in ((), (self.species,)) else found

    @functools.cached_property
    def _resolver(self) -> GeneResolver:
        return _SpeciesResolver(dict(self), has_other_names=self.species == _FIRST_SPECIES)


class _SpeciesResolver(GeneResolver):
    """Finds genes by their symbol in capitals, then, where other names are known, by these."""

    def __init__(self, genes: Collection[str], *, has_other_names: bool) -> None:
        super().__init__(genes)
        self._has_other_names = has_other_names

    def resolve(self, name: str, ensembl_id: str = "") -> Resolution:
        written = name.strip().upper()
        if written in self.genes:
            return Resolution(written, Step.AS_WRITTEN)
        return super().resolve(name, ensembl_id) if self._has_other_names else Resolution(None)


@dataclass(frozen=True)
class ExpressionFilter:
    """What a filter keeps.

    Attributes:
        cells: (cells,) bool.
        genes: (genes,) bool.
        min_cells: cells in which a gene must be expressed.
        min_genes: genes that a cell must express.
    """

    cells: np.ndarray
    genes: np.ndarray
    min_cells: int
    min_genes: int

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{np.count_nonzero(~self.genes):,} of {self.genes.size:,} genes left out, expressed in fewer than "
            f"{self.min_cells} cells; then {np.count_nonzero(~self.cells):,} of {self.cells.size:,} cells, with fewer "
            f"than {self.min_genes} such genes"
        )


def published_filter(matrix, *, min_cells: int = 10, min_genes: int = 25) -> ExpressionFilter:
    """What UCE's published pipeline leaves out of a data set (Rosen et al., bioRxiv 2023).

    Genes go first, then cells, which are judged by the genes that are left. Nothing in the package calls this by
    itself; the published embeddings are those of `adata[kept.cells, kept.genes]`.

    Args:
        matrix: (cells, genes), all cells of the data set; sparse or dense.
        min_cells: cells in which a gene must be expressed.
        min_genes: genes that a cell must express.

    Raises:
        ExpressionError: no cell or no gene is left.
    """
    matrix = as_csr(matrix)
    expressed = scipy.sparse.csr_matrix((np.asarray(matrix.data) > 0, matrix.indices, matrix.indptr), matrix.shape)
    genes = np.asarray(expressed.sum(axis=0)).ravel() >= min_cells
    cells = np.asarray(expressed[:, genes].sum(axis=1)).ravel() >= min_genes
    if not genes.any() or not cells.any():
        raise ExpressionError(
            f"No {'cell' if genes.any() else 'gene'} is left of {cells.size:,} cells and {genes.size:,} genes with "
            f"`min_cells={min_cells}` and `min_genes={min_genes}`: ask for less."
        )
    return ExpressionFilter(cells, genes, min_cells, min_genes)
