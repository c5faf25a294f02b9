"""One run of a verb over cells, and what it adds to them."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...errors import ExpressionError
from .settings import AddingSettings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers.utils import ModelOutput

    from ...opening.loading import LoadedModel
    from ..files.pieces import Pieces
    from .prepared_cells import PreparedCells
    from .verb import Verb

PLACES = ("obs", "obsm", "obsp", "layers", "uns")

Settings = TypeVar("Settings", bound=AddingSettings)


@dataclass(frozen=True)
class Results:
    """What a verb adds to an AnnData: name -> value in each of its places.

    Attributes:
        obs: (cells,) columns.
        obsm: (cells, …) arrays.
        obsp: (cells, cells) matrices; of all cells only.
        layers: (cells, genes) arrays; sparse ones of all cells only.
        uns: anything that an `.h5ad` file can hold; of all cells only.

    Raises:
        ExpressionError: an array of `obsm` is not finite.
    """

    obs: Mapping[str, Any] = field(default_factory=dict)
    obsm: "Mapping[str, np.ndarray]" = field(default_factory=dict)
    obsp: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, Any] = field(default_factory=dict)
    uns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        import numpy as np

        for name, values in self.obsm.items():
            if not np.isfinite(values).all():
                raise ExpressionError(f"`{name}` would not be finite, and is not written: look for extreme values.")

    def by_place(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The names and values of each place."""
        return [(place, getattr(self, place)) for place in PLACES]

    @property
    def n_bytes(self) -> int:
        """Bytes of all values."""
        return sum(_n_bytes(value) for _, values in self.by_place() for value in values.values())


class CellRun(Generic[Settings]):
    """One run of a verb over cells: what it takes from the model's output, and what it makes of that.

    Cells are run in blocks. From file to file these are kept, so that a stopped run resumes where it was. A subclass
    overrides [`results`], and [`read`] or [`forward`] where it takes something else than the embedding. What would
    fail after the work it refuses when it is made.

    Args:
        verb: the verb.
        loaded: the model and its processor.
        cells: the cells; `cells.source` also reads columns of `obs`, genes and counts.
        settings: the settings of the verb.

    Attributes:
        needs_all: whether `results` is called once with all cells, instead of block by block.
        config: the configuration of the model.
        key: name of the record in `uns["sclm_hf"]`, and of the main result.
    """

    needs_all = False

    def __init__(self, verb: "Verb", loaded: "LoadedModel", cells: "PreparedCells", settings: Settings) -> None:
        self.verb, self.loaded, self.cells, self.settings = verb, loaded, cells, settings
        self.config = loaded.model.config
        self.key = settings.key(self.config.model_type)

    def read(self, output: "ModelOutput") -> "torch.Tensor":
        """(batch, …) what is taken from the output of the model, one row per cell: the embedding unless overridden."""
        from ...modeling.common.outputs import embedding_of

        return embedding_of(output, self.config)

    def forward(self, model: Any, batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
        """Run a batch; for verbs that need more than one output of the model, or its inputs.

        Args:
            model: the model, in evaluation mode.
            batch: its inputs.

        Returns:
            (batch, …) what is taken, one row per cell.
        """
        from ...modeling.common.outputs import cells_alone

        return self.read(model(**batch, **cells_alone(model)))

    def results(self, cells: "slice | np.ndarray", values: "np.ndarray") -> Results:
        """What is added for some cells; in places that the record of the verb names.

        Args:
            cells: which cells.
            values: (cells, …) float32, what was taken of them.
        """
        raise NotImplementedError

    def recorded_settings(self) -> dict[str, Any]:
        """The settings that the record in `uns["sclm_hf"]` keeps."""
        return self.settings.to_record()

    def facts(self, file: "Path | None") -> dict[str, Any]:
        """What the record says beside model, versions, settings and coverage, once all results are made.

        Args:
            file: the file that is written, for warnings; None in memory.
        """
        return {}

    @classmethod
    def join(cls, key: str, records: "Sequence[Mapping[str, Any]]", names: "np.ndarray", file: Any) -> dict[str, Any]:
        """What the record says of all cells, where it is not what the records of shards of them say alike.

        Args:
            key: name of the record, and of the main result.
            records: those of the shards.
            names: (n_cells,) names of the cells.
            file: the open .h5ad file with the results of all cells.
        """
        return {}

    def blocks(self, pieces: "Pieces | None" = None) -> "Iterator[tuple[slice | np.ndarray, np.ndarray]]":
        """Run the cells block by block.

        Args:
            pieces: keeps the values of blocks; those that it has are not computed again.

        Returns:
            An iterator over (cells of the block, (cells, …) values of them).
        """
        from .batches import run_blocks

        return run_blocks(
            self.loaded,
            self.cells,
            self.forward,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            description=self.verb.name,
            pieces=pieces,
        )

    def compute(self, pieces: "Pieces") -> None:
        """Run the cells until the values of all are among the pieces."""
        deque(self.blocks(pieces), maxlen=0)

    def all_values(self, pieces: "Pieces | None" = None) -> "np.ndarray":
        """(n_cells, …) float32 values of all cells, in their order."""
        from .batches import collected

        return collected(self.blocks(pieces), len(self.cells.lengths))


def _n_bytes(value: Any) -> int:
    """Bytes of an array, a sparse matrix, a table or a mapping of these."""
    if isinstance(value, Mapping):
        return sum(map(_n_bytes, value.values()))
    if hasattr(value, "memory_usage"):
        return int(value.memory_usage(deep=True).sum()) if hasattr(value, "columns") else int(value.nbytes)
    if hasattr(value, "indptr"):
        return value.data.nbytes + value.indices.nbytes + value.indptr.nbytes
    return getattr(value, "nbytes", 0)
