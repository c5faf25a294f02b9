"""The saved parameters of a value encoding: what a cell's numbers must be, and what is made of them."""

from collections.abc import Mapping
from typing import Any

from transformers import FeatureExtractionMixin

from ..errors import ConfigurationError
from ..registry import get_family
from .encodings import ENCODINGS
from .encodings.encoding import Encoding, Parameter, is_number, is_whole

EXPECTED_DATA = ("counts", "normalized", "any")
TRUNCATIONS = ("sample", "head", "zscore")

# transformers writes these beside the parameters; they are no parameters of ours. `duplicates` is what folders of
# before have, when families differed in what they did with columns of one gene
_BOOKKEEPING = ("feature_extractor_type", "processor_class", "auto_map", "_commit_hash", "duplicates")


class ExpressionFeatureExtractor(FeatureExtractionMixin):
    """Parameters of an encoding, saved in `processor_config.json` and found by `AutoFeatureExtractor`.

    Args:
        family: the family of models whose pipeline this is; None for one of your own.
        encoding: name of a value encoding, see below.
        expects: `"counts"` (at most 1 % of the values may be fractional), `"normalized"` (more than 1 % must be), or
            `"any"` (not negative, finite).
        max_length: most tokens a cell may have, special tokens included; None for no limit.
        truncation: what a longer cell keeps: `"sample"`, a random subset keyed by the cell; `"head"`, the genes with
            the lowest ids (`"rank"`: the top ranks); or `"zscore"`, those with the largest z-scores, which needs the
            `gene_means` and `gene_deviations` of `"zscored"`.
        add_cls: put `<cls>` first.
        add_eos: put the tokenizer's `eos_token` last.
        add_token_types: give `token_type_ids` as well, all 0.
        cls_value: the value that goes with `<cls>`.
        pad_value: the value that goes with `<pad>` and with the `eos_token`.
        mask_value: the value that objectives put where they hide one.
        include_zero_genes: genes that are not expressed are tokens too, with value 0. Not for `"rank"`.
        **parameters: those that only some encodings use, see below, and what transformers adds on saving.

    Raises:
        ConfigurationError: a parameter is unknown, has a wrong type or value, or contradicts another.

    The value encodings, and the parameters that each uses besides:

    - `"bins"`: quantile bins within the cell.
        - `n_bins` (51): number of bins, the bin 0 of genes that are not expressed included.
    - `"rank"`: genes in the order of their scaled expression, without values.
        - `target_sum` (10,000): what a cell's counts are scaled to before ranking.
        - `gene_medians` (None): name of a gene, as in the tokenizer -> positive number by which its expression is
          divided before ranking; None for no such division.
    - `"continuous"`: values as they are.
    - `"depth"`: log-normalised values, then the tokens `<T>` and `<S>`, which tell total counts.
        - `target_sum` (10,000): what counts are scaled to before the logarithm; where it does not `expect` counts,
          values are taken for logarithms.
        - `target_depth` ("t4"): what `<T>` asks for: `"t4"` a log10 total of 4, `"f2"` twice the cell's total, `"a5"`
          a log10 total larger by 5, with any number; `"sum"` gives `<T>` and `<S>` the total itself.
    - `"log_bins"`: whole parts of log2 of the scaled counts, of all genes of the vocabulary in the order of their
      ids, `<cls>` among them.
        - `n_bins`, as for `"bins"`, and `target_sum`, as for `"depth"`.
    - `"zscored"`: z-scores of log-normalised counts, of every gene that the data set measures, expressed or not.
        - `target_sum`, as for `"depth"`: what counts are scaled to, within the measured genes that the model knows.
        - `gene_means`, `gene_deviations` (None): name of a gene, as in the tokenizer -> mean and standard deviation of
          its log-normalised counts; `gene_statistics` works them out. Deviations below 0.1 count as 0.1.
        - `z_clip` (10): largest absolute z-score; larger ones are cut to it.
    - `"chromosomes"`: genes drawn by their expression, in genomic order, without values; see `ChromosomeProcessor`.
        - `n_draws` (1024): how many genes are drawn, with replacement.
        - `whole_counts` (False): cut values down to whole numbers before genes are drawn.
        - `gene_places` (None): species -> name of a gene, in capitals -> its chromosome and where it starts there;
          the processor needs it.
    """

    def __init__(
        self,
        family: str | None = None,
        encoding: str = "bins",
        expects: str = "counts",
        max_length: int | None = None,
        truncation: str = "sample",
        add_cls: bool = True,
        add_eos: bool = False,
        cls_value: float = -2.0,
        pad_value: float = -2.0,
        mask_value: float = -1.0,
        include_zero_genes: bool = False,
        add_token_types: bool = False,
        **parameters: Any,
    ) -> None:
        own = _own_parameters()
        unknown = sorted(set(parameters) - set(own) - set(_BOOKKEEPING))
        if unknown:
            raise ConfigurationError(
                f"`ExpressionFeatureExtractor` has no parameter `{unknown[0]}`: expected some of "
                f"{', '.join(parameter_names())}."
            )
        super().__init__()
        self.family = family
        self.encoding = encoding
        self.expects = expects
        self.max_length = max_length
        self.truncation = truncation
        self.add_cls = add_cls
        self.add_eos = add_eos
        self.cls_value = cls_value
        self.pad_value = pad_value
        self.mask_value = mask_value
        self.include_zero_genes = include_zero_genes
        self.add_token_types = add_token_types
        for name, parameter in own.items():
            value = parameters.get(name, parameter.default)
            setattr(self, name, dict(value) if isinstance(value, Mapping) else value)
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
    def value_encoding(self) -> Encoding:
        """The encoding itself, of which `encoding` is the name."""
        return ENCODINGS[self.encoding]

    @property
    def model_input_names(self) -> list[str]:
        """What a model gets: ids and mask, values unless the order of the ids says it all, and token types."""
        values = ["expression_values"] if self.value_encoding.has_values else []
        token_types = ["token_type_ids"] if self.add_token_types else []
        return ["input_ids", *values, *token_types, "attention_mask"]

    @property
    def keeps_largest(self) -> bool:
        """Whether long cells keep the genes of the largest z-scores."""
        return self.truncation == "zscore" and self.max_length is not None

    @property
    def needs_statistics(self) -> bool:
        """Whether cells cannot be encoded without `gene_means` and `gene_deviations`."""
        return "gene_means" in self.value_encoding.parameters or self.keeps_largest

    @property
    def n_special_tokens(self) -> int:
        """How many tokens of a cell are no genes."""
        return int(self.add_cls) + int(self.add_eos) + len(self.value_encoding.special_tokens)

    def _validate(self) -> None:
        self._one_of("encoding", tuple(sorted(ENCODINGS)))
        self._one_of("expects", EXPECTED_DATA)
        self._one_of("truncation", TRUNCATIONS)
        for name in ("add_cls", "add_eos", "add_token_types", "include_zero_genes"):
            self._one_of(name, (True, False))
        for name in ("cls_value", "pad_value", "mask_value"):
            self._require(name, is_number(getattr(self, name)), "a finite number")
        self._require("family", self.family is None or isinstance(self.family, str), "a name, or None")
        smallest = self.n_special_tokens + 1
        fits = self.max_length is None or is_whole(self.max_length, smallest)
        self._require("max_length", fits, f"None or a whole number, at least {smallest} with these special tokens")
        for name, parameter in _own_parameters().items():
            self._require(name, parameter.is_sound(getattr(self, name)), parameter.expected)
            self._refuse_pointless(name, parameter)
        self.value_encoding.check(self)

    def _refuse_pointless(self, name: str, parameter: Parameter) -> None:
        """Refuse tables that the encoding does not use; of numbers, every encoding keeps a default."""
        # any encoding may cut long cells by them
        is_statistic = name in ("gene_means", "gene_deviations")
        if parameter.default is None and not is_statistic and getattr(self, name) is not None:
            users = [one.name for one in ENCODINGS.values() if name in one.parameters]
            if self.encoding not in users:
                raise ConfigurationError(
                    f"`{name}` is for the encoding `{'` and `'.join(users)}`, not for `{self.encoding}`."
                )

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
    """The parameters of `ExpressionFeatureExtractor`, those that only some encodings use last."""
    code = ExpressionFeatureExtractor.__init__.__code__
    return (*code.co_varnames[1 : code.co_argcount], *_own_parameters())


def _own_parameters() -> dict[str, Parameter]:
    """The parameters that only some encodings use."""
    return {name: parameter for encoding in ENCODINGS.values() for name, parameter in encoding.parameters.items()}
