"""Rows of a matrix become tokens and batches: the half of a processor that knows gene ids, not names."""

from typing import Any

import numpy as np

from ..errors import ConfigurationError, ExpressionError
from .encodings import ENCODINGS
from .encodings.cells import CellTokens, Columns, Layout, Survey, columns_of, pad, tokens_of_columns
from .encodings.encoding import Setting
from .encodings.keys import as_cell_ids, cell_keys
from .encodings.largest import keep_largest
from .encodings.scratch import Scratch
from .encodings.stored import StoredRows, most_tokens
from .encodings.zscored import statistics_tables
from .expression_matrix import check_kind, match_length, read_genes, refuse_rows
from .feature_extraction_expression import ExpressionFeatureExtractor
from .genes.gene_vocabulary import GeneVocabulary

_KEPT_COLUMNS = 16


class CellEncoder:
    """Encodes rows of a matrix whose columns' gene ids are known.

    Attributes:
        feature_extractor: parameters of the encoding.
        tokenizer: the model's genes.
    """

    feature_extractor: ExpressionFeatureExtractor
    tokenizer: Any

    def __init__(self, feature_extractor: ExpressionFeatureExtractor, tokenizer) -> None:
        super().__init__(feature_extractor, tokenizer)
        self._setting: tuple | None = None
        self._made_columns: dict[int, tuple] = {}

    @property
    def model_input_names(self) -> list[str]:
        return self.feature_extractor.model_input_names

    def encode(
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
    ) -> dict[str, np.ndarray]:
        """Turn rows of a matrix into a padded batch.

        Explicitly stored zeros count as zeros. Rows whose column indices are unsorted or doubled are read as scipy
        reads them: in column order, doubled entries added up.

        Args:
            matrix: (cells, genes) CSR matrix, any object with `indptr`, `indices`, `data` and `shape`, or a dense
                array; other sparse formats are converted first, on every call.
            gene_ids: (genes,) integers, token id of each column; -1 = column not used, `-2 - other` = its counts are
                added to those of column `other`.
            cell_ids: (batch,) integers that name the cells of the batch, for example from `hash_names`.
            seed: seed of what is random.
            epoch: varies what is random from epoch to epoch.
            rows: (batch,) rows of the matrix to take, in this order; None for all.
            uniforms: (stored entries of `matrix`,) numbers in [0, 1) that spread ties between bins instead of the
                keyed ones, for comparisons with recorded draws; genes then stay in the order of their columns.
            totals: (batch,) total count of each cell, for the encodings `rank` (None for the sum of its row) and
                `depth` (None for the sum of its known genes).
            check: refuse data that are not of the kind that the feature extractor `expects`, judged by all rows of
                this call. (Negative and non-finite values are always refused.)
            num_threads: how many threads share the cells.

        Returns:
            `input_ids` (batch, tokens) int64, `expression_values` (batch, tokens) float32 (not with the encoding
            `rank`), `attention_mask` (batch, tokens) int64, padded on the right to the longest cell.

        Raises:
            ExpressionError: lengths do not match, values are negative, not finite or of the wrong kind, or a cell has
                no expressed gene that the model knows.
            ConfigurationError: `uniforms` or `totals` is given to an encoding that has no use for it, or the tokenizer
                lacks a special token that the feature extractor asks for.
        """
        tokens = self.tokens(
            matrix,
            gene_ids,
            cell_ids=cell_ids,
            seed=seed,
            epoch=epoch,
            rows=rows,
            uniforms=uniforms,
            totals=totals,
            check=check,
            num_threads=num_threads,
        )
        return self.padded(tokens)

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
    ) -> CellTokens:
        """The first half of [`encode`]: the tokens of cells, without padding.

        Arguments and errors are those of [`encode`].

        Args:
            scratch: memory to work in; what is returned then lies there too, until the scratch is used again.
        """
        self._refuse_pointless(uniforms, totals)
        scratch = scratch or Scratch()
        encoding, columns = self.feature_extractor.value_encoding, self._columns(gene_ids)
        genes, found, uniforms = read_genes(matrix, columns, rows, uniforms, scratch)
        keys = self._keys(found, cell_ids, seed, epoch, check)
        if totals is not None:
            _check_totals(totals, found.rows.size)
        setting = self.model_setting()
        unfit = encoding.is_unfit(setting, genes, totals)
        if unfit is not None:
            refuse_rows(unfit, found.rows, encoding.unfit, "leave them out.")
        out = self._room(encoding.token_counts(setting, found.genes, genes.columns.size), scratch)
        encoding.write(setting, genes, keys, out, uniforms=uniforms, totals=totals, num_threads=num_threads)
        return keep_largest(out, genes, setting) if setting.statistics is not None else out

    def padded(
        self, tokens: CellTokens, cells: np.ndarray | None = None, *, narrow: bool = False
    ) -> dict[str, np.ndarray]:
        """The second half of [`encode`]: a batch of encoded cells, padded to the longest of them.

        Args:
            tokens: encoded cells.
            cells: (batch,) which of them; None for all.
            narrow: keep the types of the tokens, and make a mask of uint8.

        Returns:
            What [`encode`] returns, in memory of its own.
        """
        cells = np.arange(tokens.lengths.size) if cells is None else cells
        pad_id = special_id(self.tokenizer, "pad_token", always=True)
        ids, values, mask = pad(tokens, cells, pad_id, self.feature_extractor.pad_value, narrow=narrow)
        found = {"input_ids": ids, "expression_values": values, "attention_mask": mask}
        names = self.model_input_names
        if "token_type_ids" in names:
            found["token_type_ids"] = np.zeros_like(mask)
        return {name: found[name] for name in names}

    def lengths(self, matrix, gene_ids: np.ndarray, *, rows: np.ndarray | None = None) -> np.ndarray:
        """How many tokens each cell will have, special tokens included; 0 for a cell that [`encode`] would refuse.

        Args:
            matrix, gene_ids, rows: as for [`encode`].

        Returns:
            (batch,) int64.

        Raises:
            ExpressionError: lengths do not match, or values are negative or not finite.
        """
        encoding, setting = self.feature_extractor.value_encoding, self.model_setting()
        genes, found, _ = read_genes(matrix, self._columns(gene_ids), rows)
        unfit = encoding.is_unfit(setting, genes, None)
        sound = (found.genes > 0) & ~(False if unfit is None else unfit)
        counts = encoding.token_counts(setting, found.genes, genes.columns.size)
        if self.feature_extractor.keeps_largest:
            counts = np.minimum(counts, self.feature_extractor.max_length)
        return np.where(sound, counts, 0)

    def stored_room(
        self, stored: StoredRows, rows: np.ndarray, gene_ids: np.ndarray, setting: Setting | None = None
    ) -> np.ndarray | None:
        """How many tokens rows have at most, (cells,) int64; None where [`encode_stored`] is not for them.

        Arguments are those of [`encode_stored`].
        """
        if not self.feature_extractor.value_encoding.reads_files or self.feature_extractor.keeps_largest:
            return None
        setting = setting or self.model_setting()
        return most_tokens(stored, rows, setting.layout, self._columns(gene_ids, setting.vocabulary).known.size)

    def encode_stored(
        self,
        stored: StoredRows,
        rows: np.ndarray,
        gene_ids: np.ndarray,
        out: CellTokens,
        *,
        cell_ids,
        seed: int = 0,
        epoch: int = 0,
        scratch: Scratch | None = None,
        setting: Setting | None = None,
    ) -> bool:
        """What [`tokens`] does with `check=False`, for rows of a file that are read as they are encoded.

        Args:
            stored: a CSR matrix in a file.
            rows: (cells,) int64, ascending.
            gene_ids: as for [`encode`].
            out: where the cells are written, beginning at `starts`; `lengths` is filled in. Each has as much room as
                [`stored_room`] says.
            cell_ids, seed, epoch: as for [`encode`].
            scratch: memory to work in.
            setting: from [`model_setting`], for callers of many parts: asking a tokenizer takes a while.

        Returns:
            False when [`tokens`] would refuse a row, a row is not sorted or cannot be read, or most of its values are
            fractional where the encoding expects counts.
        """
        setting = setting or self.model_setting()
        columns, keys = self._columns(gene_ids, setting.vocabulary), cell_keys(as_cell_ids(cell_ids), seed, epoch)
        encoding = self.feature_extractor.value_encoding
        return encoding.write_stored(setting, stored, rows, columns, keys, out, scratch or Scratch())

    @property
    def token_types(self) -> tuple[type, type]:
        """Narrow types that hold any ids and any values: what is smaller is sooner written, handed over and read."""
        ids = np.uint16 if self.tokenizer.gene_vocabulary.size <= 2**16 else np.int32
        return ids, self.feature_extractor.value_encoding.value_type(self.feature_extractor)

    def check_tokens(self) -> None:
        """Refuse, before the work, a tokenizer without a token that the feature extractor asks for.

        Raises:
            ConfigurationError: it lacks one.
        """
        self._layout()
        self._special_ids()

    def _keys(self, found: Survey, cell_ids, seed: int, epoch: int, check: bool) -> np.ndarray:
        """Keys of cells that can be encoded; others are refused."""
        cell_ids = as_cell_ids(cell_ids)
        match_length("cell ids", cell_ids, found.rows.size, "row")
        if check:
            check_kind(found, self.feature_extractor.expects)
        refuse_rows(found.genes == 0, found.rows, "no expressed gene that the model knows", "leave them out.")
        return cell_keys(cell_ids, seed, epoch)

    def _room(self, lengths: np.ndarray, scratch: Scratch) -> CellTokens:
        """Where cells of given lengths are written, one after the other."""
        total = int(lengths.sum())
        has_values = "expression_values" in self.model_input_names
        return CellTokens(
            ids=scratch.empty("token_ids", total, np.int32),
            values=scratch.empty("token_values", total if has_values else 0, np.float32),
            starts=np.cumsum(lengths) - lengths,
            lengths=lengths,
        )

    def _refuse_pointless(self, uniforms, totals) -> None:
        encoding = self.feature_extractor.value_encoding
        for name, given in (("uniforms", uniforms), ("totals", totals)):
            if given is not None and name not in encoding.takes:
                users = "` and `".join(one.name for one in ENCODINGS.values() if name in one.takes)
                raise ConfigurationError(
                    f"`{name}` is for the encoding `{users}`, not for `{encoding.name}`: leave it out."
                )

    def _columns(self, gene_ids, vocabulary: GeneVocabulary | None = None) -> Columns:
        """The columns that gene ids stand for, checked; those of arrays that nobody can change are kept for later."""
        vocabulary = self.tokenizer.gene_vocabulary if vocabulary is None else vocabulary
        made_for, columns = self._made_columns.get(id(gene_ids), (None, None))
        if made_for is not None and made_for[0] is gene_ids and made_for[1] is vocabulary:
            return columns
        columns = columns_of(self._tokens(gene_ids, vocabulary))
        if isinstance(gene_ids, np.ndarray) and gene_ids.flags.owndata and not gene_ids.flags.writeable:
            self._made_columns[id(gene_ids)] = (gene_ids, vocabulary), columns
            for old in list(self._made_columns)[:-_KEPT_COLUMNS]:
                self._made_columns.pop(old, None)
        return columns

    def _tokens(self, gene_ids, vocabulary: GeneVocabulary) -> np.ndarray:
        tokens = tokens_of_columns(gene_ids, tuple(vocabulary.special_tokens.values()))
        if tokens.max(initial=-1) >= vocabulary.size:
            raise ExpressionError(
                f"The gene id {tokens.max()} is not in the vocabulary, whose ids end at {vocabulary.size - 1}: take "
                "`gene_ids` of the result of this processor's `map_genes`."
            )
        return tokens

    def model_setting(self) -> Setting:
        """What encodings are told of the model; their tables are made once for the same tokenizer and parameters."""
        extractor, vocabulary = self.feature_extractor, self.tokenizer.gene_vocabulary
        setting = Setting(extractor, self._layout(), self._special_ids(), vocabulary)
        # equal objects are told apart by their identity first: nobody compares thousands of medians
        made_for = (setting.layout, setting.special_ids, vocabulary, *vars(extractor).values())
        if self._setting is None or self._setting[0] != made_for:
            statistics = statistics_tables(setting) if extractor.keeps_largest else None
            tables = extractor.value_encoding.tables(setting)
            self._setting = (made_for, setting._replace(tables=tables, statistics=statistics))
        return self._setting[1]

    def _layout(self) -> Layout:
        extractor, tokenizer = self.feature_extractor, self.tokenizer
        # what stands out among all genes of a cell is known when all are written
        is_endless = extractor.max_length is None or extractor.keeps_largest
        max_length = np.iinfo(np.int64).max if is_endless else extractor.max_length
        return Layout(
            cls_id=special_id(tokenizer, "cls_token") if extractor.add_cls else -1,
            eos_id=special_id(tokenizer, "eos_token") if extractor.add_eos else -1,
            pad_id=special_id(tokenizer, "pad_token", always=True),
            cls_value=float(extractor.cls_value),
            pad_value=float(extractor.pad_value),
            max_genes=max_length - extractor.n_special_tokens,
            sample=extractor.truncation == "sample",
            zeros=extractor.include_zero_genes,
        )

    def _special_ids(self) -> tuple[int, ...]:
        """Ids of the encoding's own special tokens."""
        encoding, special = self.feature_extractor.value_encoding, self.tokenizer.gene_vocabulary.special_tokens
        for token in encoding.special_tokens:
            if token not in special:
                raise ConfigurationError(
                    f"The encoding `{encoding.name}` asks for a special token `{token}`, which the tokenizer does not "
                    "have: name it among the `special_tokens` of `GeneTokenizer.from_genes`."
                )
        return tuple(special[token] for token in encoding.special_tokens)


def special_id(tokenizer, role: str, always: bool = False) -> int:
    """Id of a special token that the feature extractor asks for.

    Raises:
        ConfigurationError: the tokenizer lacks it.
    """
    token_id = getattr(tokenizer, f"{role}_id")
    if token_id is None:
        otherwise = "" if always else f", or `add_{role[:3]}=False` of the feature extractor"
        raise ConfigurationError(
            f"The feature extractor asks for a `{role}`, which the tokenizer does not have: set `{role}` of the "
            f"tokenizer{otherwise}."
        )
    return token_id


def _check_totals(totals, n_cells: int) -> None:
    match_length("totals", totals, n_cells, "row")
    totals = np.asarray(totals)
    if not ((totals > 0) & np.isfinite(totals)).all():
        raise ExpressionError("`totals` must be positive and finite: give each cell's total count.")
