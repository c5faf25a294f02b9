"""`map`: labels of the nearest cells of a labelled reference."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigurationError, require
from .running.cell_run import CellRun, Results
from .running.settings import AddingSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from anndata import AnnData

    from ..opening.loading import LoadedModel
    from ..tokenization.processing_cell import CellProcessor

UNKNOWN = "unknown"
MAP_KEY = "sclm_map"


@dataclass(frozen=True, kw_only=True)
class MapSettings(AddingSettings):
    """Settings of [`map`].

    Raises:
        ConfigurationError: a value is out of range, or the cells of a reference come without the name of their labels.
    """

    reference: "str | Path | AnnData | None" = setting(
        None,
        "labelled cells, a file as for the input or an AnnData; not needed where an index exists.",
        recorded=False,
    )
    label_key: str | None = setting(None, "column of `obs` of the reference with the labels.", recorded=False)
    reference_layer: str | None = setting(
        None, "layer of the reference that holds its data, or `X` or `raw`; by default as `layer`.", recorded=False
    )
    index: "str | Path | None" = setting(
        None,
        "folder of the embedded reference: read if it exists, else written. By default `reference_index` in the "
        "folder of the model is read, and nothing is written.",
        recorded=False,
    )
    n_neighbours: int = setting(15, "how many of the nearest reference cells vote on the label.", least=1)
    unknown_quantile: float = setting(
        0.95,
        f"a cell is called `{UNKNOWN}` where its distance, the mean over its neighbours, is above this quantile of "
        "the distances of the reference cells to one another. At 0.95, one in twenty cells that are like those of the "
        "reference is called so by mistake; a lower value calls more cells of new types unknown, and more of the "
        "others; 1 allows what is as far as any reference cell.",
        least=0,
        most=1,
    )
    group_key: str | None = setting(
        None,
        "column of `obs` of the reference with donors or batches: distances within the reference are then those to "
        "cells of other groups, as a new batch has them, and fewer of its cells are called unknown.",
        recorded=False,
    )
    same_names: Literal["refuse", "leave_out", "keep"] = setting(
        "refuse",
        "what to do with cells that have the name of a reference cell: `refuse`; `leave_out` that cell from their "
        "neighbours; or `keep` it, where they are others with the same barcode.",
    )
    backend: Literal["exact", "faiss", "approximate"] = setting(
        "exact",
        "what searches: `exact`; `faiss`, which finds the same, faster where embeddings differ along many axes; or "
        "`approximate`, which is much faster among a million cells, and may miss some neighbours.",
    )
    key_added: str | None = setting(
        None, f"name of the labels in `obs`; default `{MAP_KEY}`.", flag="--key", recorded=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference is not None and not self.label_key:
            raise ConfigurationError(
                "Name with `label_key` (`--label-key`) the column of `obs` of the reference with the labels."
            )
        if self.same_names not in ("refuse", "leave_out", "keep"):
            raise ConfigurationError(
                f"`same_names` (`--same-names`) is 'refuse', 'leave_out' or 'keep', got {self.same_names!r}."
            )

    def key(self, family: str) -> str:
        """Name of the labels in `obs`, and of their record."""
        return self.key_added or MAP_KEY

    def columns(self) -> tuple[str, ...]:
        """Names of the columns that `obs` will get."""
        return tuple(self.key("") + end for end in ("", "_share", "_distance"))


class Mapped(CellRun[MapSettings]):
    """Cells and their neighbours in a reference."""

    settings: MapSettings

    def __init__(self, *run: Any) -> None:
        import numpy as np

        from .mapping.votes import Voters

        super().__init__(*run)
        self._own = self._same_names()
        self._voters = Voters(self.loaded.reference.index, self.settings.n_neighbours)
        votes, self._accuracy = self._voters.on_themselves()
        self._largest = float(np.quantile(votes.distance, self.settings.unknown_quantile))
        self._n_unknown = 0

    def _same_names(self) -> "np.ndarray":
        """(cells,) rows of the reference with the name of each cell, which have no vote on it; -1 = none."""
        import numpy as np

        rows = {name: row for row, name in enumerate(self.loaded.reference.names)}
        same = np.array([rows.get(name, -1) for name in self.cells.names])
        if self.settings.same_names == "refuse" and (same >= 0).any():
            example = self.cells.names[int((same >= 0).argmax())]
            raise ConfigurationError(
                f"{(same >= 0).sum():,} of {len(same):,} cells, such as {example!r}, have the name of a reference "
                "cell: say with `same_names` (`--same-names`) to 'leave_out' that cell from their neighbours, or to "
                "'keep' it, where it is another cell."
            )
        return np.full(len(same), -1) if self.settings.same_names == "keep" else same

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """Labels, the share of neighbours that have them, and the distance of the neighbours."""
        import numpy as np

        pandas = require("pandas", extra="anndata")
        votes = self._voters.on(values, self._own[cells])
        is_far = votes.distance > self._largest
        self._n_unknown += int(is_far.sum())
        names = self._voters.names.tolist()
        labels = np.where(is_far, UNKNOWN, self._voters.names.astype(object)[votes.codes])
        labels = pandas.Categorical(labels, categories=list(dict.fromkeys([*names, UNKNOWN])))
        return Results(obs=dict(zip(self.settings.columns(), (labels, votes.share, votes.distance), strict=True)))

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """What the reference is, and what its own distances allow."""
        reference = {name: "" if fact is None else fact for name, fact in self.loaded.reference.facts.items()}
        return {
            "reference": reference,
            "largest_distance": self._largest,
            "leave_one_out_accuracy": self._accuracy,
            "n_unknown": self._n_unknown,
        }

    @classmethod
    def join(cls, key: str, records: "Sequence[Mapping[str, Any]]", names: "np.ndarray", file: Any) -> dict[str, Any]:
        """How many of all cells are unknown."""
        return {"n_unknown": sum(int(record["n_unknown"]) for record in records)}


class MapVerb(Verb):
    """The verb, whose model comes with a reference."""

    def load(self, model: Any, processor: "CellProcessor | None", settings: MapSettings) -> "LoadedModel":
        """Load the model, and its reference."""
        from .mapping.reference import find_reference

        loaded = super().load(model, processor, settings)
        return replace(loaded, reference=find_reference(loaded, settings))


MAP = MapVerb(
    name="map",
    auto_class="AutoModel",
    settings=MapSettings,
    writes=("obs",),
    by_shards=True,
    run=Mapped,
    usage='cells = sclm_hf.map(cells, "{model}", reference="reference.h5ad", label_key="cell_type")\n'
    'cells.obs[["sclm_map", "sclm_map_share", "sclm_map_distance"]]',
)


@documented_by(MAP)
def map(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    copy: bool = True,
    **settings: Any,
) -> "AnnData":
    """Give each cell of `adata` the label that most of its nearest cells in a labelled reference have.

    Both are embedded by `model` and compared by cosine. Nothing is trained.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`MapSettings`].
        copy: add to a copy in memory; False adds to `adata` itself (but not to the file of a backed one).

    Returns:
        The AnnData with the following, under these names or those derived from `key_added`:

        - `obs["sclm_map"]`: the labels, categorical, `"unknown"` where the neighbours are too far;
        - `obs["sclm_map_share"]`: the share of the neighbours that have the label, also of unknown cells;
        - `obs["sclm_map_distance"]`: the mean cosine distance (0 to 2) of the neighbours;
        - `uns["sclm_hf"]["sclm_map"]`: `largest_distance` that is not unknown, `n_unknown`, `leave_one_out_accuracy`
          of the same vote on the reference itself, the facts of the `reference`; and model, versions, settings and
          coverage of the genes.

    Raises:
        ConfigurationError: there is no reference, it has too few cells or cells of the same names as `adata`, or
            settings do not fit.
        CheckpointError: the index was built with another model or from other cells, or it or the model is damaged.
        CorpusError: the reference cannot be read, or lacks the column or a label.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    return MAP.add_to(adata, model, processor, settings, copy=copy)
