"""Read-depth-aware masked expression: of a cell at a lower depth, with values hidden, predict the deeper cell.

Source: Hao et al., scFoundation, Nature Methods 21 (2024), doi:10.1038/s41592-024-02305-7, Methods. The authors
publish the settings of this objective and not its code, so nothing recorded can tell whether details are theirs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.depth import DEPTH, DEPTH_TOKENS
from ..tokenization.encodings.keys import Stream, cell_keys, uniforms_for
from ..tokenization.encodings.thinning import HidingSettings, expressed_tokens, thin_and_hide
from .collation import CellCollator, require_column


@dataclass
class ReadDepthCollator(CellCollator):
    """Makes cells shallower, hides values, and asks for the values of the cells as they were.

    A cell is made shallower with probability `thin_ratio`: each read is kept with the same probability, which is
    drawn from Beta(2, 2). `<S>` then tells the total that is left, `<T>` the one before. Of the cell's genes,
    `value_ratio` of the expressed and `zero_ratio` of the others are drawn; a share `replace_ratio` of these is hidden
    from the encoder and `mask_value` for the decoder, a share `random_ratio` gets the value of another gene of the
    cell, and the rest stays. Everything is drawn by (cell, gene, seed, epoch), whatever the batch.

    Args:
        target_token_id: id of `<T>`, which is the number of genes of the panel; `<S>` comes after it.
        target_sum: what counts were scaled to before the logarithm.
        mask_value: takes the place of a hidden value in the decoder's input.
        value_ratio: probability that an expressed gene is drawn.
        zero_ratio: probability that another gene of the panel is drawn.
        replace_ratio: share of the drawn that is hidden.
        random_ratio: share of the drawn that gets the value of another gene.
        thin_ratio: probability that a cell is made shallower.

    Gives:
        `input_ids`, `expression_values` and `attention_mask` of what the encoder sees, `decoder_expression_values`
        (cells, genes of the panel + 2), and `labels` (cells, genes of the panel) float32: the value of the cell as it
        was where drawn, -100 elsewhere.
    """

    objective = "read_depth"
    narrow = True
    predicts_expression = True

    target_token_id: int = 0
    target_sum: float = 10_000.0
    mask_value: float = 102.0
    value_ratio: float = 0.3
    zero_ratio: float = 0.03
    replace_ratio: float = 0.8
    random_ratio: float = 0.1
    thin_ratio: float = 0.5

    def __post_init__(self) -> None:
        for name in ("value_ratio", "zero_ratio", "replace_ratio", "random_ratio", "thin_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")
        if self.replace_ratio + self.random_ratio > 1:
            raise ConfigurationError(
                f"`replace_ratio` and `random_ratio` are shares of the same genes and add up to at most 1, got "
                f"{self.replace_ratio} and {self.random_ratio}."
            )

    @classmethod
    def from_processor(cls, processor: Any, **overrides: Any) -> "ReadDepthCollator":
        """A collator for the tokens of `processor`; `overrides` are the collator's own arguments.

        Raises:
            ConfigurationError: the processor makes no log-normalised counts with depth tokens.
        """
        encoding = processor.feature_extractor
        if encoding.value_encoding is not DEPTH or encoding.expects != "counts":
            raise ConfigurationError(
                "The read-depth objective needs the encoding 'depth' of counts, that of scFoundation; the processor "
                f"has {encoding.encoding!r} and expects {encoding.expects!r}."
            )
        special = processor.tokenizer.gene_vocabulary.special_tokens
        settings = {"target_token_id": special[DEPTH_TOKENS[0]], "target_sum": encoding.target_sum}
        return super().from_processor(processor, **(settings | overrides))

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        ids, size = batch["input_ids"], self.target_token_id
        rates, panel = self._rates(batch, epoch), self._on_panel(batch)
        totals = np.rint(10 ** batch["expression_values"][ids == size + 1].astype(np.float64))
        streams = Stream.DEPTH_READS, Stream.MASK, Stream.DEPTH_HIDDEN, Stream.DEPTH_VALUE
        hidden = thin_and_hide(panel, totals, rates, self.draws(batch, epoch, *streams), self._settings())
        depths = np.log10(np.stack([totals, hidden.totals], axis=1))
        tokens = expressed_tokens(
            hidden.seen,
            depths,
            (ids.dtype, batch["attention_mask"].dtype),
            pad_id=self.pad_token_id,
            pad_value=self.pad_value,
        )
        return {
            **dict(zip(("input_ids", "expression_values", "attention_mask"), tokens, strict=True)),
            "decoder_expression_values": np.concatenate([hidden.told, depths], axis=1, dtype=np.float32),
            "labels": hidden.labels,
        }

    def _settings(self) -> HidingSettings:
        return HidingSettings(
            target_sum=float(self.target_sum),
            mask_value=float(self.mask_value),
            value_ratio=float(self.value_ratio),
            zero_ratio=float(self.zero_ratio),
            hidden_ratio=float(self.replace_ratio),
            changed_ratio=float(self.replace_ratio + self.random_ratio),
        )

    def _on_panel(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """(cells, genes of the panel) float64 values, 0 where a gene is not among the tokens."""
        ids, values = batch["input_ids"], batch["expression_values"]
        cells, places = np.nonzero((batch["attention_mask"] != 0) & (ids < self.target_token_id))
        panel = np.zeros((len(ids), self.target_token_id))
        panel[cells, ids[cells, places]] = values[cells, places]
        return panel

    def _rates(self, batch: dict[str, np.ndarray], epoch: int) -> np.ndarray:
        """(cells,) probability that a read is kept."""
        from scipy.special import betaincinv

        cell_ids = require_column(batch, "cell_ids", "they key what is drawn about a cell")
        choosing, amounts = uniforms_for(cell_keys(cell_ids, self.seed, epoch), Stream.DEPTH_RATE, 2).T
        return np.where(choosing < self.thin_ratio, betaincinv(2.0, 2.0, amounts), 1.0)
