"""Read-depth-aware masked expression: of a cell at a lower depth, with values hidden, predict the deeper cell.

Source: Hao et al., scFoundation, Nature Methods 21 (2024), doi:10.1038/s41592-024-02305-7, Methods. The authors
publish the settings of this objective and not its code, so nothing recorded can tell whether details are theirs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigurationError
from ..tokenization.encodings.depth import DEPTH_TOKENS
from ..tokenization.encodings.keys import Stream
from .collation import IGNORED, CellCollator, require_column


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
        if encoding.encoding != "depth" or encoding.expects != "counts":
            raise ConfigurationError(
                "The read-depth objective needs the encoding 'depth' of counts, that of scFoundation; the processor "
                f"has {encoding.encoding!r} and expects {encoding.expects!r}."
            )
        special = processor.tokenizer.gene_vocabulary.special_tokens
        settings = {"target_token_id": special[DEPTH_TOKENS[0]], "target_sum": encoding.target_sum}
        return super().from_processor(processor, **(settings | overrides))

    def collate(self, batch: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        cell_ids = require_column(batch, "cell_ids", "they key what is drawn about a cell")
        panel = self.on_panel(batch)
        totals = 10 ** batch["expression_values"][batch["input_ids"] == self.target_token_id + 1].double()
        totals = totals.round()
        genes = torch.arange(self.target_token_id).expand(len(cell_ids), -1)
        rates = self.rates(*self.uniforms(cell_ids, epoch, Stream.DEPTH_RATE, 2).T)
        kept, left = self.thin(panel, totals, rates, self.uniforms(cell_ids, epoch, Stream.DEPTH_READS, genes))
        streams = (Stream.MASK, Stream.DEPTH_HIDDEN, Stream.DEPTH_VALUE)
        seen, told, drawn = self.hide(kept, *(self.uniforms(cell_ids, epoch, stream, genes) for stream in streams))
        depths = torch.stack([totals.log10(), left.log10()], dim=1)
        tokens = self.tokens(seen, depths)
        told = torch.cat([told, depths], dim=1).float()
        return tokens | {"decoder_expression_values": told, "labels": panel.masked_fill(~drawn, IGNORED).float()}

    def on_panel(self, batch: dict[str, Tensor]) -> Tensor:
        """(cells, genes of the panel) float64 values, 0 where a gene is not among the tokens."""
        size = self.target_token_id
        slots = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, size).clamp(max=size)
        panel = torch.zeros(len(slots), size + 1, dtype=torch.float64)
        return panel.scatter(1, slots, batch["expression_values"].double())[:, :size]

    def rates(self, choosing: Tensor, amounts: Tensor) -> Tensor:
        """(cells,) probability that a read is kept; both draws are (cells,) in [0, 1)."""
        from scipy.special import betaincinv

        amounts = torch.from_numpy(betaincinv(2.0, 2.0, amounts.numpy()))
        return torch.where(choosing < self.thin_ratio, amounts, 1.0)

    def thin(self, panel: Tensor, totals: Tensor, rates: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Keep each read with the cell's probability. A cell that would keep one read or none stays as it was.

        Args:
            panel: (cells, genes) log-normalised values.
            totals: (cells,) total counts.
            rates: (cells,) probabilities.
            draws: (cells, genes) in [0, 1).

        Returns:
            (cells, genes) log-normalised values and (cells,) total counts of what is left.
        """
        from scipy.stats import binom

        counts = (panel.expm1() * (totals / self.target_sum)[:, None]).round().numpy()
        row, gene = np.nonzero(counts)
        left = np.zeros_like(counts)
        left[row, gene] = binom.ppf(draws.numpy()[row, gene], counts[row, gene], rates.numpy()[row])
        left = torch.from_numpy(left)
        whole = (rates >= 1) | (left.sum(1) <= 1)
        left_totals = torch.where(whole, totals, left.sum(1))
        values = torch.log1p(left / left_totals[:, None] * self.target_sum)
        return torch.where(whole[:, None], panel, values), left_totals

    def hide(self, values: Tensor, choosing: Tensor, replacing: Tensor, others: Tensor) -> tuple[Tensor, ...]:
        """Draw genes, and hide or replace their values, by given draws, all (cells, genes) in [0, 1).

        Args:
            values: (cells, genes) what there is to hide.
            choosing: an expressed gene is drawn where this is below `value_ratio`, another one below `zero_ratio`;
            replacing: it is hidden where this is below `replace_ratio`, and replaced in the next `random_ratio`
            others: by the value of the cell's expressed gene number `int(count × draw)`.

        Returns:
            What the encoder and what the decoder sees, and which genes were drawn, each (cells, genes).
        """
        expressed = values > 0
        drawn = choosing < torch.where(expressed, self.value_ratio, self.zero_ratio)
        hidden = drawn & (replacing < self.replace_ratio)
        replaced = drawn & ~hidden & (replacing < self.replace_ratio + self.random_ratio)
        by_rank = values.gather(1, (~expressed).long().argsort(dim=1, stable=True))
        number = (others * expressed.sum(1, keepdim=True)).long()
        seen = torch.where(replaced, by_rank.gather(1, number), values)
        return seen.masked_fill(hidden, 0.0), seen.masked_fill(hidden, self.mask_value), drawn

    def tokens(self, seen: Tensor, depths: Tensor) -> dict[str, Tensor]:
        """Tokens of the expressed genes of (cells, genes) values, then `<T>` and `<S>`, padded to the longest cell."""
        cells = []
        for values, depth in zip(seen, depths, strict=True):
            ids = values.nonzero()[:, 0]
            both = torch.tensor([self.target_token_id, self.target_token_id + 1])
            cell = {"input_ids": torch.cat([ids, both]), "expression_values": torch.cat([values[ids], depth]).float()}
            cells.append(cell | {"attention_mask": torch.ones(len(ids) + 2, dtype=torch.long)})
        return self._pad(cells)
