"""Masked genes: hide some tokens of a cell, predict which genes they were.

Sources: Devlin et al., BERT, NAACL 2019, section 3.1; Theodoris et al., "Transfer learning enables predictions in
network biology", Nature 618, 616-624 (2023), doi:10.1038/s41586-023-06139-9, Methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import ConfigurationError
from ..tokenization.encodings.keys import Stream
from ..tokenization.encodings.masks import genes_of, mask_genes
from .collation import CellCollator, check_ratios


@dataclass
class MaskedGenesCollator(CellCollator):
    """Replaces tokens and asks for the true ones in `labels`.

    Every maskable token is chosen with probability `mask_ratio`, keyed by (cell, gene, seed, epoch): the same cell
    gets the same mask in whatever batch and order it arrives. Of the chosen, `replace_ratio` become `<mask>`, a share
    `random_ratio` of the rest any token of the vocabulary, and the others stay as they are. Published for Geneformer:
    15 %, of which 80 % masked, 10 % random, 10 % kept.

    Args:
        mask_ratio: probability that a token is to be predicted, or several of which one is drawn.
        ratio_per: draw among several once a `"batch"` (keyed by its first cell) or once a `"cell"`.
        replace_ratio: share of those that become `mask_token_id`.
        random_ratio: share of those that do not, which become a random token.
        mask_token_id: id of `<mask>`.
        vocab_size: random tokens are drawn from 0 to `vocab_size - 1`, special ones included.
        mask_special_tokens: whether special tokens other than `<pad>` and `<mask>` may be chosen like a gene.

    Gives:
        The batch without `cell_ids`, its `input_ids` with tokens replaced, and `labels` (cells, genes) int64: the true
        token where chosen, -100 elsewhere.
    """

    narrow = True

    objective = "masked_genes"

    mask_ratio: float | Sequence[float] = 0.15
    ratio_per: str = "batch"
    replace_ratio: float = 0.8
    random_ratio: float = 0.5
    mask_token_id: int = 1
    vocab_size: int = 0
    mask_special_tokens: bool = False

    def __post_init__(self) -> None:
        self._choices = check_ratios(self.mask_ratio, self.ratio_per)
        for name in ("replace_ratio", "random_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(f"`{name}` must lie between 0 and 1, got {getattr(self, name)}.")
        if self.vocab_size <= self.mask_token_id:
            raise ConfigurationError(
                f"`vocab_size` ({self.vocab_size}) must be larger than `mask_token_id` ({self.mask_token_id}): give "
                "the tokenizer's `gene_vocabulary.size`."
            )

    @classmethod
    def from_processor(cls, processor: Any, **overrides: Any) -> "MaskedGenesCollator":
        """A collator for the tokens of `processor`; `overrides` are the collator's own arguments.

        Raises:
            ConfigurationError: the tokenizer has no mask token.
        """
        tokenizer = processor.tokenizer
        if tokenizer.mask_token_id is None:
            raise ConfigurationError("Masked genes need a `<mask>`, and the tokenizer has none: set its `mask_token`.")
        settings = {
            "mask_token_id": tokenizer.mask_token_id,
            "vocab_size": tokenizer.gene_vocabulary.size,
        }
        return super().from_processor(processor, **(settings | overrides))

    def collate(self, batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        masked_ids, labels = mask_genes(
            batch["input_ids"],
            self.maskable(batch),
            self.draws(batch, epoch, Stream.MASK, Stream.GENE_HIDDEN, Stream.GENE_CHANGED, Stream.GENE_TOKEN),
            self.ratios(batch, epoch, self._choices, self.ratio_per),
            hidden_ratio=self.replace_ratio,
            changed_ratio=self.random_ratio,
            mask_id=self.mask_token_id,
            n_tokens=self.vocab_size,
        )
        inputs = {name: values for name, values in batch.items() if name not in ("cell_ids", "labels")}
        return inputs | {"input_ids": masked_ids, "labels": labels}

    def maskable(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """(cells, genes) bool: positions that may be chosen."""
        if not self.mask_special_tokens:
            return self.not_special(batch)
        return genes_of(batch["input_ids"], batch["attention_mask"], (self.pad_token_id, self.mask_token_id))
