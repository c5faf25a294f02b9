"""The gene vocabulary as a Hugging Face tokenizer: saved, loaded and shared like any other."""

import copy
import json
import operator
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import TokenizersBackend

from ...errors import ConfigurationError, GeneCoverageError
from ...files import read_json_object
from .gene_vocabulary import SPECIAL_TOKENS, GeneVocabulary

# `WordLevel` wants a name for unknown words; one that no vocabulary can hold makes them an error
_NO_TOKEN = " "

# without our class transformers takes a tokenizer of its own, in silence; a value that it refuses says what is missing
_NOTICE = "unknown without the package sclm_hf (`pip install sclm_hf`, then `import sclm_hf` before loading)"

_ROLES = {"<pad>": "pad_token", "<cls>": "cls_token", "<mask>": "mask_token", "<eos>": "eos_token"}

# not in the tokenizer: `datasets` makes fingerprints of all that is there, and they would hang on earlier calls
_VOCABULARIES: "weakref.WeakKeyDictionary[GeneTokenizer, tuple]" = weakref.WeakKeyDictionary()


class GeneTokenizer(TokenizersBackend):
    """A tokenizer whose words are genes, separated by white space.

    Made by `from_genes` or `from_pretrained`. It has no `__init__`: with one, transformers rebuilds the vocabulary on
    loading and renumbers ids that have gaps. An unknown gene raises `GeneCoverageError`; the genes of a data set are
    mapped once, with `gene_vocabulary.map_genes`, which reports what it leaves out.
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
            kwargs = {"gene_aliases": genes.aliases, **kwargs} if genes.aliases else kwargs
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
        state = (len(self), tuple(self.all_special_tokens))
        known, vocabulary = _VOCABULARIES.get(self, (None, None))
        if known != state:
            entries = sorted(self.get_vocab().items(), key=operator.itemgetter(1))
            aliases = self.init_kwargs.get("gene_aliases")
            vocabulary = GeneVocabulary(dict(entries), self.all_special_tokens, aliases)
            _VOCABULARIES[self] = (state, vocabulary)
        return vocabulary

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

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """Ids of genes.

        Raises:
            GeneCoverageError: a gene is not in the vocabulary.
        """
        ids = super().convert_tokens_to_ids(tokens)
        if ids is None or (isinstance(ids, list) and None in ids):
            raise self._unknown_genes(tokens)
        return ids

    def _encode_plus(self, text, text_pair=None, **kwargs):
        try:
            return super()._encode_plus(text, text_pair, **kwargs)
        except Exception as error:  # the backend raises nothing more specific
            if "WordLevel error" not in str(error):
                raise
            raise self._unknown_genes([text, text_pair]) from error

    def _pad(self, encoded_inputs, *args, **kwargs):
        """Pad one cell, its `expression_values` as well."""
        encoded = super()._pad(encoded_inputs, *args, **kwargs)
        values = encoded.get("expression_values")
        if values is None or len(values) == len(encoded["input_ids"]):
            return encoded
        if "expression_pad_value" not in self.init_kwargs:
            raise ConfigurationError(
                "The tokenizer does not know what `expression_values` are padded with: take that of the processor "
                "(`AutoProcessor.from_pretrained(…).tokenizer`), or pad with `processor.pad`."
            )
        padding = [self.init_kwargs["expression_pad_value"]] * (len(encoded["input_ids"]) - len(values))
        on_the_left = encoded["attention_mask"][0] == 0
        encoded["expression_values"] = [*padding, *values] if on_the_left else [*values, *padding]
        return encoded

    def _unknown_genes(self, text) -> GeneCoverageError:
        known, written = self.get_vocab(), self.backend_tokenizer.normalizer
        genes = (gene if written is None else written.normalize_str(gene) for gene in _words(text))
        examples = ", ".join(f"`{gene}`" for gene in [gene for gene in genes if gene not in known][:5])
        return GeneCoverageError(
            f"Not in the vocabulary: {examples}. Leave such genes out, translate names with "
            "`gene_vocabulary.map_genes`, or add them with `add_genes`."
        )

    def _save_pretrained(self, save_directory, file_names, *args, **kwargs):
        for name in (name for name in file_names if str(name).endswith("tokenizer_config.json")):
            settings = read_json_object(Path(name))
            if self.truncation_side == GeneTokenizer.truncation_side:
                settings["truncation_side"] = _NOTICE
                text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
                Path(name).write_text(text, encoding="utf-8")
        return super()._save_pretrained(save_directory, file_names, *args, **kwargs)

    @classmethod
    def _from_pretrained(cls, resolved_vocab_files, name, init_configuration, *args, **kwargs):
        settings = resolved_vocab_files.get("tokenizer_config_file")
        if settings is not None and read_json_object(Path(settings)).get("truncation_side") == _NOTICE:
            kwargs.setdefault("truncation_side", cls.truncation_side)
        tokenizer = super()._from_pretrained(resolved_vocab_files, name, init_configuration, *args, **kwargs)
        if cls._auto_class is None:
            # the folder that it came from brought code; what is saved will not
            tokenizer.init_kwargs.pop("auto_map", None)
        return tokenizer

    def _add_tokens(self, new_tokens, special_tokens: bool = False) -> int:
        # the backend numbers new tokens by the count of tokens, an id that may be taken where ids have gaps, and finds
        # them inside other words: `C` in `C1QA`
        unknown = [str(token) for token in new_tokens if self._tokenizer.token_to_id(str(token)) is None]
        if unknown:
            raise ConfigurationError(
                f"{unknown} cannot be added in place: for genes use `tokenizer = tokenizer.add_genes(genes)`, for "
                "special tokens `GeneTokenizer.from_genes(tokenizer.gene_vocabulary, special_tokens=tokens)`."
            )
        return super()._add_tokens(new_tokens, special_tokens=special_tokens)

    @classmethod
    def _patch_mistral_regex(cls, tokenizer, *args, **kwargs):
        # transformers asks the Hub whether a vocabulary of more than 100,000 words is Mistral's. Ours never is
        return tokenizer


def _words(text) -> Iterator[str]:
    """The words of a text, or of nested lists of texts."""
    if isinstance(text, str):
        yield from text.split()
    elif text is not None:
        for part in text:
            yield from _words(part)
