"""The saved parameters of a value encoding: what a cell's numbers must be, and what is made of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import FeatureExtractionMixin

from ..errors import ConfigurationError
from ..registry import get_family
from .encodings.depth import is_target_depth

ENCODINGS = ("bins", "chromosomes", "continuous", "depth", "log_bins", "rank")
EXPECTED_DATA = ("counts", "normalized", "any")
TRUNCATIONS = ("sample", "head")

# transformers writes these beside the parameters; they are no parameters of ours. `duplicates` is what folders of
# before have, when families differed in what they did with columns of one gene.
_BOOKKEEPING = ("feature_extractor_type", "processor_class", "auto_map", "_commit_hash", "duplicates")


class ExpressionFeatureExtractor(FeatureExtractionMixin):
    """Parameters of an encoding, saved in `processor_config.json` and found by `AutoFeatureExtractor`.

    Args:
        family: the family of models whose pipeline this is; None for one of your own.
        encoding: `"bins"` (quantile bins within the cell), `"rank"` (genes in order of their scaled expression; no
            values), `"continuous"` (values as they are), `"depth"` (log-normalised values, then the tokens `<T>` and
            `<S>`, which tell total counts), `"chromosomes"` (genes drawn by their expression, in genomic order; no
            values; see `ChromosomeProcessor`) or `"log_bins"` (whole parts of log2 of the scaled counts, of
            all genes of the vocabulary in the order of their ids, `<cls>` among them).
        expects: `"counts"` (at most 1 % of the values may be fractional), `"normalized"` (more than 1 % must be), or
            `"any"` (not negative, finite).
        n_bins: number of bins, the bin 0 of genes that are not expressed included. Only for `"bins"` and `"log_bins"`.
        max_length: most tokens a cell may have, special tokens included; None for no limit.
        truncation: what a longer cell keeps: `"sample"`, a random subset keyed by the cell, or `"head"`,
            those with the lowest ids. `"rank"` keeps the top ranks and wants `"head"`.
        add_cls: put `<cls>` first.
        add_eos: put the tokenizer's `eos_token` last.
        add_token_types: give `token_type_ids` as well, all 0.
        cls_value: the value that goes with `<cls>`.
        pad_value: the value that goes with `<pad>` and with the `eos_token`.
        mask_value: the value that objectives put where they hide one.
        include_zero_genes: genes that are not expressed are tokens too, with value 0. Not for `"rank"`.
        target_sum: what a cell's counts are scaled to before ranking, binning or the logarithm. Only for `"rank"`, and
            for `"depth"` and `"log_bins"` where they `expect` counts; they take other values for logarithms.
        target_depth: what `<T>` asks for: `"t4"` a log10 total of 4, `"f2"` twice the cell's total, `"a5"` a log10
            total larger by 5, with any number; `"sum"` gives `<T>` and `<S>` the total itself. Only for `"depth"`.
        gene_medians: name of a gene, as in the tokenizer -> positive number by which its expression is divided before
            ranking; None for no such division. Only for `"rank"`.
        n_draws: how many genes are drawn, with replacement. Only for `"chromosomes"`.
        whole_counts: cut values down to whole numbers before genes are drawn. Only for `"chromosomes"`.
        gene_places: species -> name of a gene, in capitals -> its chromosome and where it starts there. Only for
            `"chromosomes"`, whose processor needs it.
        **kwargs: only what transformers adds on saving.

    Raises:
        ConfigurationError: a parameter is unknown, has a wrong type or value, or contradicts another.
    """

    def __init__(
        self,
        family: str | None = None,
        encoding: str = "bins",
        expects: str = "counts",
        n_bins: int = 51,
        max_length: int | None = None,
        truncation: str = "sample",
        add_cls: bool = True,
        add_eos: bool = False,
        cls_value: float = -2.0,
        pad_value: float = -2.0,
        mask_value: float = -1.0,
        include_zero_genes: bool = False,
        target_sum: float = 10_000.0,
        gene_medians: Mapping[str, float] | None = None,
        target_depth: str = "t4",
        add_token_types: bool = False,
        n_draws: int = 1024,
        whole_counts: bool = False,
        gene_places: Mapping[str, Mapping[str, Sequence]] | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - set(_BOOKKEEPING))
        if unknown:
            raise ConfigurationError(
                f"`ExpressionFeatureExtractor` has no parameter `{unknown[0]}`: expected some of "
                f"{', '.join(parameter_names())}."
            )
        super().__init__()
        self.family = family
        self.encoding = encoding
        self.expects = expects
        self.n_bins = n_bins
        self.max_length = max_length
        self.truncation = truncation
        self.add_cls = add_cls
        self.add_eos = add_eos
        self.cls_value = cls_value
        self.pad_value = pad_value
        self.mask_value = mask_value
        self.include_zero_genes = include_zero_genes
        self.target_sum = target_sum
        self.gene_medians = None if gene_medians is None else dict(gene_medians)
        self.target_depth = target_depth
        self.add_token_types = add_token_types
        self.n_draws = n_draws
        self.whole_counts = whole_counts
        self.gene_places = dict(gene_places) if isinstance(gene_places, Mapping) else gene_places
        self._validate()

    @classmethod
    def for_family(cls, family: str, **overrides: Any) -> "ExpressionFeatureExtractor":
        """The published parameters of a family (its `encoding` in the registry), with `overrides`.

        Raises:
            ConfigurationError: there is no such family, or an override is wrong.
        """
        return cls(**{"family": family, **get_family(family).encoding, **overrides})

    def changed(self, **changes: Any) -> "ExpressionFeatureExtractor":
        """The same parameters with some changed.

        Raises:
            ConfigurationError: a parameter is unknown, or a value is wrong.
        """
        return type(self)(**{name: getattr(self, name) for name in parameter_names()} | changes)

    @property
    def model_input_names(self) -> list[str]:
        """What a model gets: ids and mask, values unless the order of the ids says it all, and token types."""
        values = [] if self.encoding in ("chromosomes", "rank") else ["expression_values"]
        token_types = ["token_type_ids"] if self.add_token_types else []
        return ["input_ids", *values, *token_types, "attention_mask"]

    @property
    def n_special_tokens(self) -> int:
        """How many tokens of a cell are no genes."""
        return int(self.add_cls) + int(self.add_eos) + (2 if self.encoding == "depth" else 0)

    def _validate(self) -> None:
        self._one_of("encoding", ENCODINGS)
        self._one_of("expects", EXPECTED_DATA)
        self._one_of("truncation", TRUNCATIONS)
        for name in ("add_cls", "add_eos", "add_token_types", "include_zero_genes", "whole_counts"):
            self._one_of(name, (True, False))
        for name in ("cls_value", "pad_value", "mask_value", "target_sum"):
            self._require(name, _is_number(getattr(self, name)), "a finite number")
        self._require("family", self.family is None or isinstance(self.family, str), "a name, or None")
        self._require("n_bins", _is_whole(self.n_bins) and self.n_bins >= 2, "a whole number, at least 2")
        smallest = self.n_special_tokens + 1
        fits = self.max_length is None or (_is_whole(self.max_length) and self.max_length >= smallest)
        self._require("max_length", fits, f"None or a whole number, at least {smallest} with these special tokens")
        self._require("target_sum", self.target_sum > 0, "positive")
        medians = self.gene_medians or {}
        sound = all(isinstance(gene, str) and _is_number(x) and x > 0 for gene, x in medians.items())
        self._require("gene_medians", sound, "None, or names of genes with positive numbers")
        if self.encoding == "rank" and self.include_zero_genes:
            raise ConfigurationError("Genes that are not expressed have no rank: `include_zero_genes` must be False.")
        if self.encoding == "rank" and self.truncation != "head":
            raise ConfigurationError("The encoding `rank` keeps the top ranks: `truncation` must be 'head'.")
        fixed = {"max_length": None, "include_zero_genes": True, "cls_value": 0}
        if self.encoding == "log_bins" and any(getattr(self, name) != value for name, value in fixed.items()):
            raise ConfigurationError(
                "The encoding `log_bins` has all genes of the vocabulary, and bin 0 for `<cls>`: `max_length` must be "
                "None, `include_zero_genes` True and `cls_value` 0."
            )
        self._require("n_draws", _is_whole(self.n_draws) and self.n_draws >= 1, "a whole number, at least 1")
        sound = self.gene_places is None or _are_places(self.gene_places)
        self._require("gene_places", sound, "None, or species with genes, each with [chromosome, start]")
        if self.encoding != "chromosomes" and self.gene_places is not None:
            raise ConfigurationError(f"`gene_places` is for the encoding `chromosomes`, not for `{self.encoding}`.")
        sound = isinstance(self.target_depth, str) and is_target_depth(self.target_depth)
        self._require("target_depth", sound, "'sum', or a letter of t, f and a with a number, such as 't4'")
        if self.encoding == "depth" and (self.add_cls or self.add_eos or self.include_zero_genes):
            raise ConfigurationError(
                "The encoding `depth` has expressed genes and its own two tokens: `add_cls`, `add_eos` and "
                "`include_zero_genes` must be False."
            )
        if self.encoding != "rank" and self.gene_medians is not None:
            raise ConfigurationError(f"`gene_medians` is for the encoding `rank`, not for `{self.encoding}`.")

    def _one_of(self, name: str, allowed: tuple) -> None:
        value = getattr(self, name)
        same = any(type(value) is type(one) and value == one for one in allowed)
        self._require(name, same, f"one of {', '.join(map(repr, allowed))}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            value = getattr(self, name)
            shown = f"{len(value):,} entries" if isinstance(value, dict) else repr(value)
            raise ConfigurationError(f"`{name}` of the feature extractor must be {expected}; got {shown}.")


def parameter_names() -> tuple[str, ...]:
    """The parameters of `ExpressionFeatureExtractor`, in order."""
    code = ExpressionFeatureExtractor.__init__.__code__
    return code.co_varnames[1 : code.co_argcount]


def _are_places(value: Any) -> bool:
    """Whether it is species -> gene -> (chromosome, start)."""
    if not isinstance(value, dict) or not all(isinstance(genes, Mapping) for genes in value.values()):
        return False
    return all(
        isinstance(place, (list, tuple)) and len(place) == 2 and isinstance(place[0], str) and _is_whole(place[1])
        for genes in value.values()
        for place in genes.values()
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
