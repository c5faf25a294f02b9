"""Whose genes a data set holds: what Ensembl ids, genomes and the look of symbols tell."""

import functools
import re
from collections import Counter
from collections.abc import Sequence

from .gene_table import human_genes, mouse_orthologs

ENSEMBL_SPECIES = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSGALG": "chicken",
    "ENSDARG": "zebrafish",
    "ENSSSCG": "pig",
    "ENSMMUG": "macaca_mulatta",
    "ENSMFAG": "macaca_fascicularis",
    "ENSMICG": "mouse_lemur",
    "ENSXETG": "frog",
    "ENSPTRG": "chimpanzee",
    "ENSGGOG": "gorilla",
    "ENSPPYG": "orangutan",
    "ENSCJAG": "marmoset",
    "ENSBTAG": "cow",
    "ENSOARG": "sheep",
    "ENSCAFG": "dog",
    "ENSECAG": "horse",
    "ENSFCAG": "cat",
    "ENSOCUG": "rabbit",
    "ENSMPUG": "ferret",
    "ENSCPOG": "guinea pig",
    "FBgn": "fruit fly",
    "WBGene": "worm",
}
"""Beginning of the ids of genes -> species."""

IN_LOWER_CASE = "zebrafish or frog"
"""What names in lower case tell of."""

_ID = re.compile(r"(?:\S+_)?(?:(ENS(?:[A-Z]{3,4})?G)[0-9]{11}|(FBgn)[0-9]{7}|(WBGene)[0-9]{8})(?:\.[0-9]+)?")
_GENOME = re.compile(r"(?:(GRCh3[78]|hg19|hg38)|GRCm3[89]|mm10|mm39)_+\S", re.IGNORECASE)
_UNNAMED_OF_MOUSE = re.compile(r"Gm[0-9]{3,}|[A-Z0-9]+Rik")

_FEWEST = 3
_SHARE_OF_IDS = 0.01
_SHARE_OF_MIXED = 0.1
_TIMES = 3


def species_of_ids(names: Sequence[str], ensembl_ids: Sequence[str]) -> tuple[str, ...]:
    """The species that ids, and names with a genome before them, tell of; several where they are mixed.

    Args:
        names: (n_genes,) names.
        ensembl_ids: (n_genes,) Ensembl ids, empty where there is none.
    """
    species = Counter(
        filter(None, (_of_id(one) or _of_id(name) for one, name in zip(ensembl_ids, names, strict=True)))
    )
    if species.total() < max(2, _SHARE_OF_IDS * len(names)):
        return ()
    found = [one for one, count in species.most_common() if count >= _SHARE_OF_MIXED * species.total()]
    return tuple(found)


def _of_id(name: str) -> str | None:
    """The species of an id, or of a name that begins with a genome."""
    if not name.startswith(("ENS", "FBgn", "WBGene")) and "_" not in name:
        return None
    if found := _ID.fullmatch(name):
        prefix = found[1] or found[2] or found[3]
        return ENSEMBL_SPECIES.get(prefix, f"a species with ids {prefix}…")
    found = _GENOME.match(name)
    return None if found is None else "human" if found[1] else "mouse"


def species_of_symbols(names: Sequence[str]) -> tuple[str, ...]:
    """The species that symbols tell of, by their content and how they are written; none where they tell of none.

    Names in capitals do not tell human genes from those of chicken or pig.
    """
    human, mouse = human_genes().gene_of, _mouse_in_capitals()
    human_only = mouse_only = lower = 0
    for name in names:
        capitals = name.upper()
        if name in human:
            human_only += capitals not in mouse
        elif capitals in mouse or _UNNAMED_OF_MOUSE.fullmatch(name):
            lower += name.islower()
            mouse_only += not name.islower()
    if lower >= _FEWEST and lower > _TIMES * (human_only + mouse_only):
        return (IN_LOWER_CASE,)
    if mouse_only >= _FEWEST and mouse_only > _TIMES * human_only:
        return ("mouse",)
    if human_only >= _FEWEST and human_only > _TIMES * mouse_only:
        return ("human",)
    return ()


@functools.cache
def _mouse_in_capitals() -> frozenset[str]:
    return frozenset(symbol.upper() for symbol in mouse_orthologs() if not symbol.startswith("ENS"))
