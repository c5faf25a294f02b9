"""What a value encoding is: the object that the feature extractor, the processor and objectives ask."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .cells import CellGenes, CellTokens, Columns, Layout
from .scratch import Scratch
from .stored import StoredRows


class Parameter(NamedTuple):
    """A parameter of the feature extractor that only some encodings use.

    Attributes:
        default: its value unless given.
        is_sound: tells sound values from others.
        expected: what a sound value is, for messages.
    """

    default: Any
    is_sound: Callable[[Any], bool]
    expected: str


class Setting(NamedTuple):
    """The model that cells are encoded for.

    Attributes:
        parameters: the `ExpressionFeatureExtractor`.
        layout: how a cell's tokens stand in a row.
        special_ids: token ids of the encoding's own `special_tokens`.
        vocabulary: the tokenizer's `GeneVocabulary`.
        tables: what the encoding prepared once for all calls, see [`Encoding.tables`].
        statistics: means and deviations of genes, by token id, where long cells keep the largest z-scores.
    """

    parameters: Any
    layout: Layout
    special_ids: tuple[int, ...]
    vocabulary: Any
    tables: Any = None
    statistics: Any = None


class Encoding:
    """A value encoding: what becomes of a cell's expression.

    A new one is a subclass in a file of its own and a line in `ENCODINGS`.

    Attributes:
        name: what the parameter `encoding` of the feature extractor calls it.
        parameters: the parameters that only some encodings use and this one does. Encodings may share one.
        special_tokens: special tokens that it puts behind the genes of every cell.
        has_values: whether tokens come with values.
        has_zeros: whether genes that are measured and not expressed have tokens whatever `include_zero_genes` says.
        has_fixed_genes: whether every cell has all genes of the vocabulary, measured or not.
        ranks_genes: whether genes stand in the order of their expression.
        takes: which of the arguments `uniforms` and `totals` of `CellProcessor.encode` it has a use for.
        reads_files: whether it has [`write_stored`].
        unfit: what cells have that [`is_unfit`] tells, for messages.
    """

    name: str
    parameters: Mapping[str, Parameter] = {}
    special_tokens: tuple[str, ...] = ()
    has_values = True
    has_zeros = False
    has_fixed_genes = False
    ranks_genes = False
    takes: tuple[str, ...] = ()
    reads_files = False
    unfit = ""

    @property
    def has_bins(self) -> bool:
        """Whether values are bins."""
        return "n_bins" in self.parameters

    def check(self, parameters: Any) -> None:
        """Refuse parameters that are sound by themselves and contradict one another.

        Raises:
            ConfigurationError: they do.
        """

    def value_type(self, parameters: Any) -> type:
        """A narrow type that holds any of the values, those of padding included."""
        extremes = parameters.cls_value, parameters.pad_value, parameters.n_bins
        whole = self.has_bins and all(x == int(x) and abs(x) < 2**15 for x in extremes)
        return np.int16 if whole else np.float32

    def tables(self, setting: Setting) -> Any:
        """What [`write`] looks up, made once for a tokenizer and parameters."""

    def token_counts(self, setting: Setting, n_genes: np.ndarray, n_columns: int) -> np.ndarray:
        """How many tokens cells have.

        Args:
            setting: the model.
            n_genes: (cells,) int64, expressed genes that the vocabulary knows.
            n_columns: columns that the vocabulary knows.

        Returns:
            (cells,) int64.
        """
        layout, parameters = setting.layout, setting.parameters
        genes = np.full_like(n_genes, n_columns) if layout.zeros or self.has_zeros else n_genes
        return np.minimum(genes, layout.max_genes) + parameters.n_special_tokens

    def is_unfit(self, setting: Setting, genes: CellGenes, totals: np.ndarray | None) -> np.ndarray | None:
        """(cells,) bool: cells that have known genes and still cannot be encoded; None if there never are any."""

    def write(
        self,
        setting: Setting,
        genes: CellGenes,
        keys: np.ndarray,
        out: CellTokens,
        *,
        uniforms: np.ndarray | None = None,
        totals: np.ndarray | None = None,
        num_threads: int = 1,
    ) -> None:
        """Write cells as tokens.

        Args:
            setting: the model.
            genes: the genes of sound cells (see `take_genes`).
            keys: (cells,) uint64 from `cell_keys`, what random draws belong to.
            out: where each cell's tokens go, and how many it has.
            uniforms: (genes,) draws to take instead of the keyed ones; only for encodings that take them.
            totals: (cells,) total count of each cell; only for encodings that take them.
            num_threads: how many threads share the cells; the result does not depend on it.
        """
        raise NotImplementedError(f"The encoding `{self.name}` does not say how cells are written.")

    def write_stored(
        self,
        setting: Setting,
        stored: StoredRows,
        rows: np.ndarray,
        columns: Columns,
        keys: np.ndarray,
        out: CellTokens,
        scratch: Scratch,
    ) -> bool:
        """Read rows of a file and write them as [`write`] does, a few cells at a time.

        Args:
            setting: the model.
            stored: a CSR matrix in a file.
            rows: (cells,) int64, ascending.
            columns: the columns of the matrix.
            keys: (cells,) uint64 from `cell_keys`.
            out: where cells are written, beginning at `starts`, with room for `most_tokens` each; `lengths` is filled
                in.
            scratch: memory to work in.

        Returns:
            False when a row is not sound, has no known gene or cannot be read, or when most of its values are
            fractional where counts are expected; `out` then holds nothing of use.
        """
        raise NotImplementedError(f"The encoding `{self.name}` reads no files.")


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any, least: int | None = None) -> bool:
    """Whether it is a whole number, and not below `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


N_BINS = Parameter(51, lambda value: is_whole(value, 2), "a whole number, at least 2")
TARGET_SUM = Parameter(10_000.0, lambda value: is_number(value) and value > 0, "a finite, positive number")
