"""What every objective's collator shares: rows of cells become one batch of tensors; masks are keyed by the cell."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ..errors import ConfigurationError, CorpusError
from ..registry import FAMILIES
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ..tokenization.encodings.masks import Draws, choose, genes_of

Batch = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass
class CellCollator(ABC):
    """Turns cells into the inputs of a model.

    A collator is called with a whole batch (a dict of numpy arrays or tensors, as `CellCorpus` hands out) or with a
    list of single cells (as stock `transformers.Trainer` does; pass `remove_unused_columns=False` there, because
    `cell_ids` are needed and are no argument of the model).

    Args:
        pad_token_id: fills `input_ids` when single cells are padded to the longest.
        pad_value: fills `expression_values` there.
        special_token_ids: ids such as `<cls>` that are never masked nor moved.
        seed: seed of everything drawn about a cell.
        epoch: epoch used when a call names none; see `set_epoch`.
    """

    objective: ClassVar[str] = ""
    """Name of a pre-training objective, as families list it in the registry."""
    narrow: ClassVar[bool] = False
    """Whether `collate` takes batches in narrow types, as streamed ones are made: ids uint16 or int32, binned values
    int16, the mask uint8 (see [`~corpora.narrow.NarrowBatch`]). Else it gets int64 and float32 alone."""
    predicts_expression: ClassVar[bool] = False
    """Whether the objective needs the values of an encoding."""
    sample_share: ClassVar[float] = 1.0
    """Share of the cells of a sample that an epoch of training takes, where cells come in samples."""

    pad_token_id: int = 0
    pad_value: float = -2.0
    special_token_ids: tuple[int, ...] = ()
    seed: int = 0
    epoch: int = 0

    @classmethod
    def from_processor(cls, processor: Any, **overrides: Any) -> "CellCollator":
        """A collator that pads as `processor` encodes and masks as its family published.

        Args:
            processor: the tokenizer and encoding of the cells.
            **overrides: the collator's own arguments.

        Raises:
            ConfigurationError: the objective predicts expression values, and the encoding has none.
        """
        tokenizer, encoding = processor.tokenizer, processor.feature_extractor
        if cls.predicts_expression and "expression_values" not in encoding.model_input_names:
            raise ConfigurationError(
                f"`{cls.__name__}` predicts expression values, and the encoding {encoding.encoding!r} has none: use "
                "an encoding with values, such as 'bins'."
            )
        settings = {
            "pad_token_id": tokenizer.pad_token_id,
            "pad_value": encoding.pad_value,
            "special_token_ids": tuple(tokenizer.gene_vocabulary.special_tokens.values()),
        }
        if "mask_value" in cls.__dataclass_fields__:
            settings["mask_value"] = encoding.mask_value
        family = FAMILIES.get(encoding.family)
        published = family.masking.get(cls.objective, {}) if family else {}
        return cls(**(settings | published | overrides))

    def set_epoch(self, epoch: int) -> None:
        """Draw as in `epoch` from now on; loops that pass `epoch` with each call do not need it."""
        self.epoch = epoch

    def __call__(self, batch: Batch, epoch: int | None = None) -> dict[str, torch.Tensor]:
        """Model inputs and `labels` for `batch`.

        Raises:
            CorpusError: the batch lacks something that the objective needs.
        """
        batch = self._pad(batch) if isinstance(batch, Sequence) else batch
        arrays = {name: torch.as_tensor(values).numpy() for name, values in batch.items()}
        inputs = self.collate(arrays, self.epoch if epoch is None else epoch)
        return {name: torch.from_numpy(values) for name, values in inputs.items()}

    @abstractmethod
    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        """Model inputs and `labels` from the arrays of a batch, in types as wide or narrow as theirs."""

    def forward_arguments(self, step: int) -> dict[str, Any]:
        """Extra arguments of the model's forward at optimizer step `step` (0, 1, …)."""
        return {}

    def draws(self, batch: dict[str, np.ndarray], epoch: int, *streams: Stream) -> Draws:
        """What decides about the genes of the batch, for functions of `encodings.masks` that draw from `streams`."""
        return Draws.of(require_column(batch, "cell_ids", "they key what is drawn about a cell"), self.seed, epoch)

    def choose(
        self,
        batch: dict[str, np.ndarray],
        epoch: int,
        allowed: np.ndarray,
        ratios: np.ndarray,
        rounding: str = "down",
    ) -> np.ndarray:
        """Draw `ratio × allowed positions` of the positions of every cell without replacement.

        Args:
            batch: the arrays of the batch.
            epoch: current epoch.
            allowed: (cells, genes) bool, positions that may be drawn.
            ratios: (cells,) share of them to draw.
            rounding: `"down"` in double precision, as Python's `int(n * ratio)`, or `"up"` in single precision, as
                `torch.ceil(n * ratio)`.

        Returns:
            (cells, genes) bool.
        """
        draws = self.draws(batch, epoch, Stream.MASK)
        return choose(batch["input_ids"], allowed, draws, ratios, up=rounding == "up")

    def ratios(self, batch: dict[str, np.ndarray], epoch: int, choices: tuple[float, ...], per: str) -> np.ndarray:
        """One of `choices` for every cell, (cells,) float64.

        The same for the whole batch, keyed by its first cell, or drawn `per` cell. Only the latter is independent of
        the batches that cells come in.
        """
        cell_ids = require_column(batch, "cell_ids", "they key what is drawn about a cell")
        if len(choices) == 1:
            return np.full(len(cell_ids), choices[0])
        keys = cell_keys(cell_ids if per == "cell" else cell_ids[:1], self.seed, epoch)
        index = (uniforms_for(keys, Stream.RATIO, 1)[:, 0] * len(choices)).astype(np.int64)
        return np.broadcast_to(np.array(choices)[index], len(cell_ids)).copy()

    def not_special(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """(cells, genes) bool: real positions that hold a gene."""
        return genes_of(batch["input_ids"], batch["attention_mask"], self.special_token_ids)

    def _pad(self, cells: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        fills = {"input_ids": self.pad_token_id, "expression_values": self.pad_value}
        batch = {}
        for name in cells[0]:
            rows = [torch.as_tensor(cell[name]) for cell in cells]
            if rows[0].ndim == 0:
                batch[name] = torch.stack(rows)
            else:
                fill = fills.get(name, 0)
                batch[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
        return batch


def require_column(batch: Mapping[str, np.ndarray], name: str, why: str) -> np.ndarray:
    """`batch[name]`, or a `CorpusError` that says what is there and how to get it."""
    if name not in batch:
        raise CorpusError(
            f"The batch has no `{name}`, and {why}; it holds {', '.join(sorted(batch))}. `CellCorpus` adds `cell_ids` "
            "always and `labels` when `label_column` is given; with transformers' Trainer pass "
            "`remove_unused_columns=False`."
        )
    return batch[name]


def check_ratios(mask_ratio: float | Sequence[float], per: str) -> tuple[float, ...]:
    """The ratios as a tuple.

    Raises:
        ConfigurationError: a ratio is not between 0 and 1, or `per` is neither `"batch"` nor `"cell"`.
    """
    ratios = tuple(mask_ratio) if isinstance(mask_ratio, Sequence) else (mask_ratio,)
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise ConfigurationError(f"`mask_ratio` is one or more numbers between 0 and 1, got {mask_ratio}.")
    if per not in ("batch", "cell"):
        raise ConfigurationError(f"`ratio_per` is 'batch' or 'cell', got {per!r}.")
    return ratios
