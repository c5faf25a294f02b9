"""Training cells made worse on purpose: shallower, on fewer genes, differently in every epoch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError, unknown_name
from ..tokenization.encodings.encoding import is_number, is_whole


@dataclass(frozen=True)
class Augmentation:
    """What is done to the counts of cells before they are encoded.

    Everything is drawn by (cell, seed, epoch), whatever the batch, the windows and the number of workers; the genes
    that a model of samples does not get are the same for all cells of a sample, and drawn by the sample's place in the
    epoch. A cell that would have no gene left keeps all of them; one that would have at most one read left is not
    thinned.

    Args:
        thin_share: share of the cells of which reads are left out.
        thin: smallest and largest share of its reads that such a cell keeps; drawn log-uniformly.
        panel_share: share of the cells (samples) cut to the genes of another source; none where all sources measure
            the same genes.
        drop_genes: smallest and largest share of its genes that a cell (sample) loses; drawn uniformly.
        views: how many differently drawn views of each cell a batch has: those of number 1, then those of number 2, …,
            each with the cells' ids and labels. Batches have as many times more rows than cells.

    Raises:
        ConfigurationError: a share is no share, or a range has no end.
    """

    thin_share: float = 0.5
    thin: tuple[float, float] = (0.1, 1.0)
    panel_share: float = 0.5
    drop_genes: tuple[float, float] = (0.0, 0.4)
    views: int = 1

    def __post_init__(self) -> None:
        for name in ("thin", "drop_genes"):
            if isinstance(getattr(self, name), list):
                # JSON has no tuples
                object.__setattr__(self, name, tuple(getattr(self, name)))
        sound = {
            "thin_share": (_are_shares(self.thin_share), "a share from 0 to 1"),
            "thin": (_is_range(self.thin) and self.thin[0] > 0, "two ascending shares above 0"),
            "panel_share": (_are_shares(self.panel_share), "a share from 0 to 1"),
            "drop_genes": (_is_range(self.drop_genes) and self.drop_genes[1] < 1, "two ascending shares below 1"),
            "views": (is_whole(self.views, 1), "a whole number, at least 1"),
        }
        for name, (holds, expected) in sound.items():
            if not holds:
                raise ConfigurationError(
                    f"`{name}` of the augmentation must be {expected}; got {getattr(self, name)!r}."
                )

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> "Augmentation":
        """The augmentation that `--augment` describes.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
        """
        known = list(cls.__dataclass_fields__)
        for name in settings:
            if name not in known:
                raise unknown_name(name, known, " in `augment`")
        return cls(**settings)


def _are_shares(*values: Any) -> bool:
    return all(is_number(value) and 0 <= value <= 1 for value in values)


def _is_range(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _are_shares(*value) and value[0] <= value[1]
