"""Tokenizers of lines of ranked genes, with the names written as their authors did: `HLA_A` for `HLA-A`."""

from collections.abc import Iterable, Mapping
from itertools import product
from typing import Any

from tokenizers.normalizers import Replace, Sequence
from tokenizers.processors import TemplateProcessing

from .tokenization_gene import GeneTokenizer

_MOST_SEPARATORS = 4


def ranking_tokenizer(
    tokens: Mapping[str, int], special_tokens: Iterable[str], *, first: str, last: str, **settings: Any
) -> GeneTokenizer:
    """A tokenizer that turns `"HLA-A B2M"` into `first`, `HLA_A`, `B2M`, `last`.

    Args:
        tokens: token -> id, with `_` for `-` and `.` in the names of genes.
        special_tokens: tokens that are no genes.
        first, last: special tokens around the genes of a line, also known as `cls_token` and `eos_token`.
        **settings: passed to the tokenizer, as further special tokens and `model_input_names`.
    """
    special_tokens = tuple(special_tokens)
    tokenizer = GeneTokenizer.from_genes(
        tokens,
        special_tokens=special_tokens,
        gene_aliases=names_with_underscores(name for name in tokens if name not in special_tokens),
        cls_token=first,
        eos_token=last,
        **settings,
    )
    backend = tokenizer.backend_tokenizer
    backend.normalizer = Sequence([Replace("-", "_"), Replace(".", "_")])
    around = [(token, tokens[token]) for token in (first, last)]
    backend.post_processor = TemplateProcessing(single=[first, "$A", last], special_tokens=around)
    return tokenizer


def names_with_underscores(names: Iterable[str]) -> dict[str, str]:
    """How genes whose `-` and `.` a vocabulary replaced by `_` may be called -> their name there.

    `HLA_A` is found by `HLA-A` and `HLA.A`. A name that the vocabulary holds itself is no alias, nor is one of more
    than four underscores, of which no gene has as many; of two that could be meant, none is.
    """
    names = list(names)
    taken, aliases, doubtful = set(names), {}, set()
    for name in names:
        parts = name.split("_")
        if not 1 < len(parts) <= _MOST_SEPARATORS + 1 or "" in parts:
            continue
        for separators in product("-._", repeat=len(parts) - 1):
            alias = parts[0] + "".join(map("".join, zip(separators, parts[1:], strict=True)))
            if alias in taken:
                continue
            if aliases.setdefault(alias, name) != name:
                doubtful.add(alias)
    return {alias: name for alias, name in aliases.items() if alias not in doubtful}
