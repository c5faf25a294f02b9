"""Encoded cells as sentences: the words of the genes that a processor ranked, or other words."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..tokenization.feature_extraction_expression import ExpressionFeatureExtractor
from ..tokenization.genes.tokenization_gene import GeneTokenizer
from ..tokenization.processing_cell import CellProcessor
from .neutral import neutralise
from .sentences import gene_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def sentence_processor(genes: Iterable[str], n_genes: int) -> CellProcessor:
    """A processor that ranks the genes of cells by expression, equal ones in the order of `genes`.

    Args:
        genes: the genes that sentences may have.
        n_genes: how many of its genes a sentence keeps, the most expressed ones.

    Raises:
        ConfigurationError: a gene occurs twice, or `n_genes` is below 1.
    """
    encoding = ExpressionFeatureExtractor(
        encoding="rank", expects="any", max_length=n_genes, truncation="head", add_cls=False
    )
    return CellProcessor(encoding, GeneTokenizer.from_genes(genes, special_tokens=("<pad>",)))


class CellWriter(Protocol):
    """Writes encoded cells as sentences."""

    words: list[str]
    """All words that a sentence may have."""

    def sentences(self, batch: Mapping[str, Any]) -> list[str]:
        """(cells,) sentences of a batch, of arrays or tensors."""


class CellWords:
    """Writes cells that a [`sentence_processor`] encoded as sentences.

    Args:
        processor: the processor.
        tokenizer: the tokenizer of the language model, whose special tokens genes may not contain.
        case: as for `gene_words`.

    Attributes:
        words: the words of all genes.

    Raises:
        ExpressionError: two genes become the same word.
    """

    def __init__(
        self, processor: CellProcessor, tokenizer: "PreTrainedTokenizerBase | None" = None, *, case: str = "upper"
    ) -> None:
        vocabulary = processor.tokenizer.gene_vocabulary
        genes = [gene for gene in vocabulary if gene not in vocabulary.special_tokens]
        # a word is one word: what neutral text separates is joined
        self.words = gene_words(["_".join(neutralise(gene, tokenizer).split()) for gene in genes], case=case)
        self._table = np.full(vocabulary.size, "", dtype=object)
        self._table[[vocabulary[gene] for gene in genes]] = self.words

    def sentences(self, batch: Mapping[str, Any]) -> list[str]:
        """(cells,) sentences of a batch with `input_ids` and `attention_mask`, (cells, genes)."""
        ids, lengths = _array(batch["input_ids"]), _array(batch["attention_mask"]).sum(axis=1)
        return [" ".join(self._table[row[:length]]) for row, length in zip(ids, lengths, strict=True)]


def _array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)
