"""The gene vocabulary as a Hugging Face tokenizer: saved, loaded and shared like any other."""

import copy
import operator
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import TokenizersBackend

from .gene_vocabulary import SPECIAL_TOKENS, GeneVocabulary

# `WordLevel` wants a name for unknown words; one that no vocabulary can hold makes them an error.
_NO_TOKEN = " "

_ROLES = {"<pad>": "pad_token", "<cls>": "cls_token", "<mask>": "mask_token"}


class GeneTokenizer(TokenizersBackend):
    """A tokenizer whose words are genes, separated by white space.

    Made by `from_genes` or `from_pretrained`. It has no `__init__`: with one, transformers rebuilds the vocabulary on
    loading and renumbers ids that have gaps. An unknown gene raises; data are mapped once a source with
    `gene_vocabulary.map_genes`, which reports what it leaves out.
    """

    model_input_names = ["input_ids", "attention_mask"]

    @classmethod
    def from_genes(
        cls,
        genes: GeneVocabulary | Mapping[str, int] | Iterable[str],
        *,
        special_tokens: Iterable[str] = SPECIAL_TOKENS,
        **kwargs: Any,
    ) -> "GeneTokenizer":
        """Make a tokenizer.

        Args:
            genes: a vocabulary, a mapping name -> id (kept as it is), or the names of the genes in order.
            special_tokens: names that are no genes. Those that `genes` lacks get the ids after the largest one (before
                the genes, when `genes` is a list).
            **kwargs: passed to the tokenizer and saved with it, for example `gene_id_type="symbol"`.

        Raises:
            ConfigurationError: the vocabulary is not sound (see `GeneVocabulary`).
        """
        special_tokens = tuple(special_tokens)
        if isinstance(genes, GeneVocabulary):
            special_tokens = (*genes.special_tokens, *special_tokens)
        elif not isinstance(genes, Mapping):
            genes = GeneVocabulary.from_genes(genes, special_tokens)
        vocabulary = GeneVocabulary(genes, special_tokens)
        vocabulary = vocabulary.add_genes(dict.fromkeys(token for token in special_tokens if token not in vocabulary))
        roles = {role: token for token, role in _ROLES.items() if token in special_tokens}
        extra = [token for token in dict.fromkeys(special_tokens) if token not in _ROLES]
        tokenizer = Tokenizer(WordLevel(dict(vocabulary), unk_token=_NO_TOKEN))
        tokenizer.pre_tokenizer = WhitespaceSplit()
        return cls(tokenizer_object=tokenizer, **{**roles, "extra_special_tokens": extra, **kwargs})

    @property
    def gene_vocabulary(self) -> GeneVocabulary:
        """The vocabulary as a `GeneVocabulary`; its `size` is what the embedding of a model needs."""
        entries = sorted(self.get_vocab().items(), key=operator.itemgetter(1))
        return GeneVocabulary(dict(entries), self.all_special_tokens)

    def add_genes(self, genes: Iterable[str]) -> "GeneTokenizer":
        """A new tokenizer with `genes` at the ids after the largest one.

        Resize the model with it: `model.resize_token_embeddings(tokenizer.gene_vocabulary.size)`.

        Raises:
            ConfigurationError: a gene is in the vocabulary already, or twice among `genes`.
        """
        vocabulary = self.gene_vocabulary.add_genes(genes)
        tokenizer = copy.deepcopy(self)
        tokenizer.backend_tokenizer.model = WordLevel(dict(vocabulary), unk_token=_NO_TOKEN)
        return tokenizer
