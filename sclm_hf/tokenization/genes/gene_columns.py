"""Which columns of `var` name the genes: symbols, Ensembl ids, and what is no gene."""

import re
from collections.abc import Sequence
from typing import Any

from .gene_table import ensembl_id_of

_IDS = ("ensembl_id", "ensembl_ids", "ensembl_gene_id", "gene_ids", "gene_id", "feature_id", "feature_ids", "ensembl")
_SYMBOLS = (
    "feature_name",
    "feature_names",
    "gene_symbol",
    "gene_symbols",
    "gene_name",
    "gene_names",
    "symbol",
    "symbols",
    "hgnc_symbol",
    "mgi_symbol",
    "external_gene_name",
    "gene_short_name",
    "gene",
    "genes",
)
_KINDS = ("feature_types", "feature_type", "feature_biotype", "library_type", "modality")
_GENES = frozenset(("gene expression", "gene", "genes", "gex", "rna", "mrna", "expression"))
_NO_GENES = frozenset(
    [
        "antibody capture",
        "antigen capture",
        "crispr guide capture",
        "multiplexing capture",
        "custom",
        "peaks",
        "peak",
        "adt",
        "hto",
        "protein",
        "antibody",
        "atac",
        "chromatin accessibility",
        "spike-in",
        "grna",
        "sgrna",
        "crispr",
        "hashtag",
        "negative control",
        "blank",
    ]
)
_NOT_KNOWN = ("", "none", "nan", "<na>")
_LABEL = re.compile(r" \[([^\]]+)\]$")

_KINDS_BY_NAME = {
    "peak": r"(chr)?[0-9XYM]{1,2}[:_-][0-9]+[_-][0-9]+",
    "spike-in": r"ERCC[-_.]?[0-9]{5}|SIRV[0-9]+.*|.*spike[-_ ]?in.*",
    "antibody or hashtag": r"(ADT|HTO|AB)[-_].+|hashtag.*|.*[-_.](Total(Seq)?[-_ABCD]*|ADT|HTO)([-_.].*)?",
    "transgene": r"(d?[EY]?GFP|[YRCB]FP|TagBFP|tdTomato|mCherry|mKate2?|DsRed|Venus|mNeonGreen|ZsGreen|mScarlet|"
    r"i?Cre(ERT2?)?|luciferase|Luc2|LacZ|NeoR?|PuroR?|HygroR|BlastR|rtTA|tTA|WPRE|d?Cas9)([-_. ].*)?",
}
_BY_NAME = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _KINDS_BY_NAME.items()}


def gene_names(var: Any, names: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Names and Ensembl ids of the rows of `var`, whatever its shape.

    Columns are known by their names, in capitals or not, with `_`, `-`, `.`, a blank or nothing between words. Where
    the index holds Ensembl ids or numbers, the names are those of a column of symbols; where this has none, or lacks
    one, the id. What a column (`feature_types`, `feature_biotype`, …) calls something else than a gene, or not
    measured (`feature_is_filtered`), has that behind its name in brackets, which no vocabulary can hold; see
    [`is_gene`].

    Args:
        var: a data frame, or what has `columns` and gives them by name.
        names: (n_genes,) its index.

    Returns:
        (n_genes,) names, and (n_genes,) Ensembl ids, empty where there is none; None for no ids at all.
    """
    if not len(names):
        return [], None
    columns = {_plain(name): name for name in reversed(list(getattr(var, "columns", ())))}

    def texts(name: str) -> list[str] | None:
        return [_text(value) for value in var[columns[_plain(name)]]] if _plain(name) in columns else None

    names = list(names)
    ids = names if are_ensembl_ids(names) else _first(texts, _IDS, are_ensembl_ids)
    if ids is names or _are_numbers(names):
        symbols = _first(texts, _SYMBOLS, _are_symbols)
        fallback = names if ids is None else ids
        if symbols is None:
            names, ids = fallback, None
        else:
            names = [symbol or other for symbol, other in zip(symbols, fallback, strict=True)]
    return _labelled(names, ids, _kinds(texts), _genomes(texts))


def is_gene(name: str) -> bool:
    """Whether a name that [`gene_names`] gives is that of a gene."""
    return _LABEL.search(name) is None


def kind_of(name: str) -> str | None:
    """What something is that is no gene of the organism, by its label or the look of its name; None for genes."""
    if found := _LABEL.search(name):
        return found[1]
    return next((kind for kind, pattern in _BY_NAME.items() if pattern.fullmatch(name)), None)


def labelled(name: str, kind: str) -> str:
    """The name of something that is no gene."""
    return f"{name} [{kind}]"


def are_ensembl_ids(names: Sequence[str]) -> bool:
    """Whether most of those that are known are Ensembl ids."""
    # looking at all names at once spares most data sets a look at each
    if set(map(type, names)) == {str} and "ENS" not in "\0".join(names):
        return False
    known = [name for name in names if not isinstance(name, str) or name]
    return 2 * sum(isinstance(name, str) and ensembl_id_of(name.strip()) is not None for name in known) > len(known)


def _first(texts, columns: Sequence[str], fits) -> list[str] | None:
    """The values of the first of the columns that is there and fits."""
    return next((found for found in map(texts, columns) if found is not None and fits(found)), None)


def _are_numbers(names: Sequence[str]) -> bool:
    return bool(names) and all(isinstance(name, str) and name.isdecimal() for name in names)


def _are_symbols(names: Sequence[str]) -> bool:
    return any(names) and not _are_numbers(names) and not are_ensembl_ids(names)


def _kinds(texts) -> list[str] | None:
    """What each row is, "" for a gene; None where no column says it."""
    found = None
    for column in _KINDS:
        values = texts(column)
        known = set() if values is None else {value.lower() for value in values}
        if known & _NO_GENES or (known & _GENES and known - _GENES - {""}):
            no_genes = {
                kind for kind in known if kind and kind not in _GENES and (known & _GENES or kind in _NO_GENES)
            }
            found = [value if value.lower() in no_genes else "" for value in values]
            break
    filtered = texts("feature_is_filtered")
    if filtered is None or "True" not in filtered:
        return found
    found = found or [""] * len(filtered)
    return [kind or ("not measured" if value == "True" else "") for kind, value in zip(found, filtered, strict=True)]


def _genomes(texts) -> list[str] | None:
    """The genome of each row, where there are several."""
    values = texts("genome")
    return values if values is not None and len(set(values) - {""}) > 1 else None


def _labelled(
    names: list[str], ids: list[str] | None, kinds: list[str] | None, genomes: list[str] | None
) -> tuple[list[str], list[str] | None]:
    if genomes is not None:
        names = [
            f"{genome}_{name}" if genome and not name.startswith(genome) else name
            for name, genome in zip(names, genomes, strict=True)
        ]
    if kinds is not None and any(kinds):
        names = [labelled(name, kind) if kind else name for name, kind in zip(names, kinds, strict=True)]
        ids = None if ids is None else ["" if kind else one for one, kind in zip(ids, kinds, strict=True)]
    return names, ids


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return "" if text.lower() in _NOT_KNOWN else text
