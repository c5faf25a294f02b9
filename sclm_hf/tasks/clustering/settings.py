"""Settings of a sweep over resolutions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import ConfigurationError
from ..running.settings import GENES, AddingSettings, setting


@dataclass(frozen=True, kw_only=True)
class SweepSettings(AddingSettings):
    """Settings of verbs that cluster cells at several resolutions.

    Raises:
        ConfigurationError: a value is out of range, or resolutions are no numbers above 0.
    """

    use_rep: str | None = setting(None, "embedding in `obsm` to start from, instead of one that a model makes.")
    resolutions: "str | Sequence[float]" = setting(
        "0.1,0.2,0.4,0.6,0.8,1,1.5,2",
        "resolutions to compare, in the command separated by commas. The one chosen is the most stable "
        "that gives more than one cluster: few clusters are often the most stable, so look at the table.",
    )
    n_subsamples: int = setting(
        5, "how many times 80 % of the cells are drawn and clustered again, to see how stable clusters are.", least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.resolution_values  # noqa: B018 (checks)

    @property
    def resolution_values(self) -> list[float]:
        """The resolutions as numbers."""
        given = self.resolutions.split(",") if isinstance(self.resolutions, str) else self.resolutions
        try:
            values = [float(one) for one in given]
        except (TypeError, ValueError):
            values = []
        if not values or not all(0 < one < float("inf") for one in values):
            raise ConfigurationError(
                f"`resolutions` (`--resolutions`) must be numbers above 0, such as 0.5,1, got {self.resolutions!r}."
            )
        return values

    def check_embedding_named(self, model: Any) -> None:
        """Refuse to take an embedding from a model and from `obsm`, or from neither.

        Raises:
            ConfigurationError: both are named, or none.
        """
        if (model is None) == (self.use_rep is None):
            raise ConfigurationError(
                "Name what to start from: either a `model` (`--model`), or an embedding in `obsm` with `use_rep` "
                "(`--use-rep`)."
            )
        if model is None and self.genes is not None:
            raise ConfigurationError(f"{GENES} is what a model reads: leave it out with `use_rep` (`--use-rep`).")

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name."""
        return {**super().to_record(), "resolutions": self.resolution_values}
