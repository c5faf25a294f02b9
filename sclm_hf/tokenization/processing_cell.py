"""Cells become batches: an AnnData, a matrix or a row in, `input_ids`, `expression_values`, `attention_mask` out."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, ProcessorMixin

from ..errors import ConfigurationError, ExpressionError
from .cell_inputs import (
    CellGroup,
    GeneTables,
    are_shard_rows,
    read_gene_tables,
    read_group,
    read_shard_rows,
    refuse_settings_of_matrices,
)
from .encodings import ENCODINGS
from .encodings.cells import Cells, CellTokens, Columns, Layout, Survey, columns_of, joined, pad, tokens_of_columns
from .encodings.encoding import Setting
from .encodings.keys import as_cell_ids, cell_keys
from .encodings.scratch import Scratch
from .encodings.stored import StoredRows, most_tokens
from .expression_matrix import (
    check_kind,
    match_length,
    read_cells,
    read_genes,
    refuse_rows,
    select_counts,
)
from .feature_extraction_expression import ExpressionFeatureExtractor
from .gene_vocabulary import GeneCoverage, GeneMapping, GeneVocabulary

__all__ = ["CellProcessor", "select_counts"]

_KEPT_MAPPINGS = 16


class CellProcessor(ProcessorMixin):
    """The parameters of an encoding and the vocabulary of a model, together: cells in, a batch for the model out.

    What is random about a cell (ties between bins, which genes a long cell keeps) depends on its id, `seed` and
    `epoch` alone, so a cell's tokens are the same in any batch, order, chunking and number of threads; only the
    padding is the batch's. Genes stand in the order of their ids (`rank`: of their ranks, `chromosomes`: of the
    genome), so the order of the matrix's columns changes nothing.

    Args:
        feature_extractor: parameters of the encoding.
        tokenizer: the model's genes.

    Attributes:
        context: what the model sees at a time: `"cell"`, or `"sample"` where the cells of a batch belong together.
    """

    context = "cell"

    def __init__(self, feature_extractor: ExpressionFeatureExtractor, tokenizer) -> None:
        super().__init__(feature_extractor, tokenizer)
        self.last_coverage: GeneCoverage | None = None
        self._setting: tuple | None = None
        self._mappings: dict[tuple, GeneMapping] = {}
        self._made_columns: dict[int, tuple] = {}
        self._tables: dict[str, Any] = {}
        if "expression_values" in self.model_input_names:
            # for `tokenizer.pad`, which collators of transformers call
            tokenizer.init_kwargs["expression_pad_value"] = float(feature_extractor.pad_value)

    @property
    def model_input_names(self) -> list[str]:
        return self.feature_extractor.model_input_names

    def map_genes(
        self,
        names: Sequence[str],
        *,
        ensembl_ids: Sequence[str] | None = None,
        species: str | None = None,
        counts: np.ndarray | None = None,
    ) -> GeneMapping:
        """Find the ids of a data set's genes: `GeneVocabulary.map_genes` of the tokenizer's vocabulary.

        Worth doing once a data set: the result's `gene_ids` serve every call of [`encode`].
        """
        mapping = self.tokenizer.gene_vocabulary.map_genes(
            names,
            ensembl_ids=ensembl_ids,
            species=species,
            counts=counts,
        )
        self.last_coverage = mapping.coverage
        return mapping

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
        sort = not encoding.sorts_genes
        genes, found, uniforms = read_genes(matrix, columns, rows, uniforms, scratch, sort=sort)
        keys = self._keys(found, cell_ids, seed, epoch, check)
        if totals is not None:
            _check_totals(totals, found.rows.size)
        setting = self._model_setting()
        unfit = encoding.is_unfit(setting, genes, totals)
        if unfit is not None:
            refuse_rows(unfit, found.rows, encoding.unfit, "leave them out.")
        out = self._room(encoding.token_counts(setting, found.genes, genes.columns.size), scratch)
        encoding.write(setting, genes, keys, out, uniforms=uniforms, totals=totals, num_threads=num_threads)
        return out

    def stored_room(self, stored: StoredRows, rows: np.ndarray, gene_ids: np.ndarray) -> np.ndarray | None:
        """How many tokens rows have at most, (cells,) int64; None where [`encode_stored`] is not for them."""
        if not self.feature_extractor.value_encoding.reads_files:
            return None
        return most_tokens(stored, rows, self._layout(), self._columns(gene_ids).known.size)

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

        Returns:
            False when [`tokens`] would refuse a row, a row is not sorted or cannot be read, or most of its values are
            fractional where the encoding expects counts.
        """
        columns, keys = self._columns(gene_ids), cell_keys(as_cell_ids(cell_ids), seed, epoch)
        encoding, setting = self.feature_extractor.value_encoding, self._model_setting()
        return encoding.write_stored(setting, stored, rows, columns, keys, out, scratch or Scratch())

    @property
    def token_types(self) -> tuple[type, type]:
        """Narrow types that hold any ids and any values: what is smaller is sooner written, handed over and read."""
        ids = np.uint16 if self.tokenizer.gene_vocabulary.size <= 2**16 else np.int32
        return ids, self.feature_extractor.value_encoding.value_type(self.feature_extractor)

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
        pad_id = _special_id(self.tokenizer, "pad_token", always=True)
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
        encoding, setting = self.feature_extractor.value_encoding, self._model_setting()
        genes, found, _ = read_genes(matrix, self._columns(gene_ids), rows)
        unfit = encoding.is_unfit(setting, genes, None)
        sound = (found.genes > 0) & ~(False if unfit is None else unfit)
        return np.where(sound, encoding.token_counts(setting, found.genes, genes.columns.size), 0)

    def __call__(
        self,
        cells,
        *,
        gene_names: Any = None,
        ensembl_ids: Sequence[str] | None = None,
        layer: str | None = None,
        species: str | None = None,
        cell_ids=None,
        seed: int = 0,
        epoch: int = 0,
        padding: bool | str | None = None,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_cell_ids: bool = False,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Turn cells into a batch for the model.

        It may be mapped over our shards::

            genes = load_dataset(folder, "genes", split="train")
            load_dataset(folder, split="train").map(processor, batched=True, fn_kwargs={"gene_names": genes})

        Args:
            cells: an AnnData, a data frame of cells in rows and genes in columns, a (cells, genes) sparse or dense
                matrix, one (genes,) row, or rows of our shards as `datasets` hands them over (a mapping with the
                columns `gene_index`, `counts`, `cell_id` and `dataset`; also a single one). Of an AnnData the data are
                looked for as [`select_counts`] says.
            gene_names: (genes,) names of the columns; needed for a matrix or a row, taken from an AnnData or a data
                frame. For rows of shards their table of genes, see above.
            ensembl_ids: (genes,) Ensembl ids of the columns, where known beside the names; by default those of the
                AnnData.
            layer: the layer of the AnnData that holds the data; also `"X"` or `"raw"`.
            species: as for [`map_genes`].
            cell_ids: (cells,) integers. By default made from the names of the AnnData's or the data frame's cells; for
                a matrix the row numbers, for rows of shards their `cell_id`.
            seed, epoch: see [`encode`].
            padding: True or `"longest"` (pad to the longest cell), `"max_length"`, or False or `"do_not_pad"`: lists
                of arrays as long as their cells. By default True, for rows of shards False.
            truncation: what a cell with more than `max_length` tokens keeps: `"sample"` or `"head"`; False = nothing
                is cut off. By default, or with True, what the feature extractor says.
            max_length: most tokens of a cell; by default what the feature extractor says.
            pad_to_multiple_of: pad to a multiple of this number.
            return_cell_ids: return `cell_ids` as well, (cells,) int64: what the cells' random draws are keyed by.
            return_tensors: `"pt"` or `"np"`; numpy arrays when left out.

        Returns:
            What [`encode`] returns. `last_coverage` then holds the report on the genes.

        Raises:
            ExpressionError: as [`encode`]; or there are no cells, or the names are missing.
            GeneCoverageError: the model knows too few of the genes.
            ConfigurationError: settings contradict one another or the encoding.
        """
        if truncation is not None or max_length is not None:
            other = self._cut_otherwise(truncation, max_length)
            batch = other(
                cells,
                gene_names=gene_names,
                ensembl_ids=ensembl_ids,
                layer=layer,
                species=species,
                cell_ids=cell_ids,
                seed=seed,
                epoch=epoch,
                padding=padding,
                pad_to_multiple_of=pad_to_multiple_of,
                return_cell_ids=return_cell_ids,
                return_tensors=return_tensors,
            )
            self.last_coverage = other.last_coverage
            return batch
        are_rows = are_shard_rows(cells)
        padding = _padding(not are_rows if padding is None else padding, return_tensors)
        _check_multiple(pad_to_multiple_of)
        is_one = are_rows and isinstance(cells["dataset"], str)
        settings = {"ensembl_ids": ensembl_ids, "layer": layer, "cell_ids": cell_ids}
        if are_rows:
            refuse_settings_of_matrices(settings)
            cells = {name: [cells[name]] for name in cells} if is_one else cells
            groups = read_shard_rows(cells, self._gene_tables(gene_names))
        else:
            groups = [read_group(cells, gene_names=gene_names, expects=self.feature_extractor.expects, **settings)]
        parts = [self._tokens_of(group, species, seed, epoch) for group in groups]
        tokens = parts[0] if len(parts) == 1 else joined(parts, [group.places for group in groups])
        batch: dict[str, Any] = self._finished(tokens, padding, pad_to_multiple_of)
        if return_cell_ids:
            ids = np.concatenate([as_cell_ids(group.cell_ids) for group in groups])
            batch["cell_ids"] = ids[np.argsort(np.concatenate([group.places for group in groups]))].view(np.int64)
        if is_one:
            batch = {name: values[0] for name, values in batch.items()}
        return BatchFeature(batch, tensor_type=return_tensors)

    def pad(self, features, **settings) -> BatchFeature:
        """Pad encoded cells to a batch, as `tokenizer.pad` does: so `DataCollatorWithPadding(processor)` works.

        Args:
            features: a list of cells, or a mapping of lists, as [`__call__`] returns them with `padding=False`.
            **settings: `padding`, `max_length`, `pad_to_multiple_of`, `return_tensors`, …
        """
        return self.tokenizer.pad(features, **settings)

    def _tokens_of(self, group: CellGroup, species: str | None, seed: int, epoch: int) -> CellTokens:
        """The tokens of cells, after the checks of the data as a whole."""
        read, found = read_cells(group.matrix, columns_of(np.full(group.matrix.shape[1], -1, np.int32)))
        check_kind(found, self.feature_extractor.expects, group.source)
        mapping = self._mapped(group, species, read)
        return self.tokens(
            group.matrix, mapping.gene_ids, cell_ids=group.cell_ids, seed=seed, epoch=epoch, check=False
        )

    def _mapped(self, group: CellGroup, species: str | None, read: Cells) -> GeneMapping:
        """The ids of a group's genes; those of the last data sets are kept, for calls that follow one another."""
        known = (tuple(group.gene_names), None if group.ensembl_ids is None else tuple(group.ensembl_ids), species)
        counts = np.bincount(read.indices, weights=read.data, minlength=group.matrix.shape[1])
        if known not in self._mappings:
            mapping = self.map_genes(group.gene_names, ensembl_ids=group.ensembl_ids, species=species, counts=counts)
            self._mappings[known] = mapping
        # the cells of this call are judged, not those of an earlier one
        mapping = self._mappings[known].weighed(counts)
        for old in list(self._mappings)[:-_KEPT_MAPPINGS]:
            del self._mappings[old]
        self.last_coverage = mapping.coverage
        mapping.coverage.check()
        return mapping

    def _gene_tables(self, gene_names: Any) -> GeneTables:
        """The gene tables of shards; that of `datasets`, which nobody changes in place, is read once for all calls."""
        if not hasattr(gene_names, "column_names"):
            return read_gene_tables(gene_names)
        if self._tables.get("given") is not gene_names:
            self._tables.update(given=gene_names, read=read_gene_tables(gene_names))
        return self._tables["read"]

    def _cut_otherwise(self, truncation: bool | str | None, max_length: int | None) -> "CellProcessor":
        """This processor with other settings for long cells."""
        changes: dict[str, Any] = {} if max_length is None else {"max_length": max_length}
        if truncation is False and max_length is not None:
            raise ConfigurationError("`truncation=False` cuts nothing off: leave out `max_length`.")
        if truncation is False:
            changes["max_length"] = None
        elif isinstance(truncation, str):
            changes["truncation"] = truncation
        other = copy.copy(self)
        # what calls leave behind serves both
        vars(other).update(vars(self), feature_extractor=self.feature_extractor.changed(**changes))
        return other

    def _finished(self, tokens: CellTokens, padding: str, multiple: int | None) -> dict[str, Any]:
        """Encoded cells as a padded batch, or as lists of arrays."""
        batch = self.padded(tokens)
        if padding == "do_not_pad":
            lengths = batch["attention_mask"].sum(axis=1)
            return {
                name: [row[:length] for row, length in zip(rows, lengths, strict=True)] for name, rows in batch.items()
            }
        width = longest = batch["input_ids"].shape[1]
        if padding == "max_length":
            width = self.feature_extractor.max_length
            if width is None:
                raise ConfigurationError(
                    "`padding='max_length'` needs a `max_length`: the feature extractor has none."
                )
        width = max(width, longest)
        width += -width % (multiple or 1)
        if width == longest:
            return batch
        fill = {
            "input_ids": _special_id(self.tokenizer, "pad_token", always=True),
            "expression_values": self.feature_extractor.pad_value,
        }
        return {
            name: np.pad(rows, [(0, 0), (0, width - longest)], constant_values=fill.get(name, 0))
            for name, rows in batch.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, and what `datasets` makes its fingerprints of: nothing that calls leave behind."""
        left = {"last_coverage": None, "_setting": None, "_mappings": {}, "_made_columns": {}, "_tables": {}}
        state = self.__dict__ | left
        return {
            name: value
            for name, value in state.items()
            if not isinstance(getattr(type(self), name, None), functools.cached_property)
        }

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

    def _columns(self, gene_ids) -> Columns:
        """The columns that gene ids stand for, checked; those of arrays that nobody can change are kept for later."""
        vocabulary = self.tokenizer.gene_vocabulary
        made_for, columns = self._made_columns.get(id(gene_ids), (None, None))
        if made_for is not None and made_for[0] is gene_ids and made_for[1] is vocabulary:
            return columns
        columns = columns_of(self._tokens(gene_ids, vocabulary))
        if isinstance(gene_ids, np.ndarray) and gene_ids.flags.owndata and not gene_ids.flags.writeable:
            self._made_columns[id(gene_ids)] = (gene_ids, vocabulary), columns
            for old in list(self._made_columns)[:-_KEPT_MAPPINGS]:
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

    def _refuse_pointless(self, uniforms, totals) -> None:
        encoding = self.feature_extractor.value_encoding
        for name, given in (("uniforms", uniforms), ("totals", totals)):
            if given is not None and name not in encoding.takes:
                users = "` and `".join(one.name for one in ENCODINGS.values() if name in one.takes)
                raise ConfigurationError(
                    f"`{name}` is for the encoding `{users}`, not for `{encoding.name}`: leave it out."
                )

    def check_special_tokens(self) -> None:
        """Refuse, before the work, a tokenizer without a special token that the feature extractor asks for.

        Raises:
            ConfigurationError: it lacks one.
        """
        self._layout()
        self._special_ids()

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

    def _model_setting(self) -> Setting:
        """What encodings are told of the model; their tables are made once for the same tokenizer and parameters."""
        extractor, vocabulary = self.feature_extractor, self.tokenizer.gene_vocabulary
        setting = Setting(extractor, self._layout(), self._special_ids(), vocabulary)
        # equal objects are told apart by their identity first: nobody compares thousands of medians
        made_for = (setting.layout, setting.special_ids, vocabulary, *vars(extractor).values())
        if self._setting is None or self._setting[0] != made_for:
            self._setting = (made_for, setting._replace(tables=extractor.value_encoding.tables(setting)))
        return self._setting[1]

    def _layout(self) -> Layout:
        extractor, tokenizer = self.feature_extractor, self.tokenizer
        max_length = np.iinfo(np.int64).max if extractor.max_length is None else extractor.max_length
        return Layout(
            cls_id=_special_id(tokenizer, "cls_token") if extractor.add_cls else -1,
            eos_id=_special_id(tokenizer, "eos_token") if extractor.add_eos else -1,
            pad_id=_special_id(tokenizer, "pad_token", always=True),
            cls_value=float(extractor.cls_value),
            pad_value=float(extractor.pad_value),
            max_genes=max_length - extractor.n_special_tokens,
            sample=extractor.truncation == "sample",
            zeros=extractor.include_zero_genes,
        )


def _padding(padding: bool | str, return_tensors: str | None) -> str:
    """`"longest"`, `"max_length"` or `"do_not_pad"`."""
    name = {True: "longest", False: "do_not_pad"}.get(padding, padding) if isinstance(padding, bool) else padding
    name = getattr(name, "value", name)
    if name not in ("longest", "max_length", "do_not_pad"):
        raise ConfigurationError(
            f"`padding` must be True, False, 'longest', 'max_length' or 'do_not_pad', got {padding!r}."
        )
    if return_tensors not in (None, "pt", "np"):
        raise ConfigurationError(f"`return_tensors` must be 'pt', 'np' or None, got {return_tensors!r}.")
    if name == "do_not_pad" and return_tensors is not None:
        raise ConfigurationError(
            "Cells of different lengths are no tensor: give `padding=True` or no `return_tensors`."
        )
    return name


def _check_multiple(multiple: int | None) -> None:
    if multiple is not None and not (isinstance(multiple, (int, np.integer)) and multiple > 0):
        raise ConfigurationError(f"`pad_to_multiple_of` must be a whole number from 1 on, or None; got {multiple!r}.")


def _special_id(tokenizer, role: str, always: bool = False) -> int:
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
