"""Cells become batches: an AnnData, a matrix or a row in, `input_ids`, `expression_values`, `attention_mask` out."""

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature, ProcessorMixin

from ..errors import ConfigurationError
from .cell_encoder import CellEncoder, special_id
from .cell_inputs import (
    CellGroup,
    GeneTables,
    are_shard_rows,
    read_gene_tables,
    read_group,
    read_shard_rows,
    refuse_settings_of_matrices,
)
from .encodings.cells import Cells, CellTokens, columns_of, joined
from .encodings.keys import as_cell_ids
from .expression_matrix import check_kind, read_cells
from .feature_extraction_expression import ExpressionFeatureExtractor
from .genes.gene_vocabulary import GeneCoverage, GeneMapping

_KEPT_MAPPINGS = 16


class CellProcessor(CellEncoder, ProcessorMixin):
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
        self._mappings: dict[tuple, GeneMapping] = {}
        self._tables: dict[str, Any] = {}
        if "expression_values" in self.model_input_names:
            # for `tokenizer.pad`, which collators of transformers call
            tokenizer.init_kwargs["expression_pad_value"] = float(feature_extractor.pad_value)

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
        width = batch["input_ids"].shape[1]
        if padding == "max_length":
            width = self.feature_extractor.max_length
            if width is None:
                raise ConfigurationError(
                    "`padding='max_length'` needs a `max_length`: the feature extractor has none."
                )
        return self.widened(batch, width, multiple)

    def widened(self, batch: dict[str, Any], width: int = 0, multiple: int | None = None) -> dict[str, Any]:
        """A batch of [`padded`] with more padding.

        Args:
            batch: (cells, tokens) arrays.
            width: how many tokens it has at least.
            multiple: a number that divides how many it has.
        """
        longest = batch["input_ids"].shape[1]
        width = max(width, longest)
        width += -width % (multiple or 1)
        if width == longest:
            return batch
        fill = {
            "input_ids": special_id(self.tokenizer, "pad_token", always=True),
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
