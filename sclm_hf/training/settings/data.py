"""Where the cells of a run come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import ConfigurationError, CorpusError
from ..arguments import option, read_mapping

if TYPE_CHECKING:
    from ...corpora.augmentation import Augmentation


@dataclass
class DataArguments:
    """Where the cells come from.

    Raises:
        ConfigurationError: the held-out share is no share, or two settings contradict one another.
    """

    train_files: list[str] = field(
        metadata={"help": ".h5ad files, AnnData zarr folders, Parquet corpora, or folders of them."}
    )
    eval_files: list[str] | None = field(
        default=None, metadata={"help": "Files to evaluate on, instead of `eval_share`."}
    )
    eval_share: float = option(
        0.0,
        "Share of the cells (of whole samples, where the model sees them together) held out for evaluation; of each "
        "label at least one cell is trained on, unless samples or values of `split_by` are held out whole.",
    )
    layer: str | None = option(
        None, "Layer with the counts, `X` or `raw`; by default the first of layers['counts'], raw, X."
    )
    where: list[str] | None = field(
        default=None,
        metadata={
            "help": "Conditions that cells to train and to evaluate on must meet: COLUMN=VALUE, repeated for more "
            "values or columns; or a mapping (in recipes, and as JSON), see `CellCorpus`."
        },
    )
    split_by: str | None = option(
        None,
        "With `eval_share`: column of obs whose values are held out whole, such as the donor; `dataset` holds out "
        "whole files. By default cells are held out at random, `cell`.",
    )
    train_weights: list[float] | None = field(
        default=None,
        metadata={
            "help": "Share of each entry of `train_files` in an epoch, up to a factor; by default its number of cells."
        },
    )
    batch_column: str | None = option(
        None, "Column of obs with the batch, for models that take batch labels; with the sample for CellPLM."
    )
    species: str | None = option(
        None,
        "human, or mouse to map genes through orthologs; by default the one that the Ensembl ids of a file name, else "
        "human.",
    )

    augment: str | None = option(
        None,
        "Make cells to train on shallower and cut them to fewer genes, differently in every epoch: a mapping, as JSON "
        "on the command line, with some of `thin_share`, `thin`, `panel_share` and `drop_genes` (see `Augmentation`); "
        "{} takes the defaults. By default cells stay as they are.",
    )

    def __post_init__(self) -> None:
        _ = self.augmentation
        if not 0 <= self.eval_share < 1:
            raise ConfigurationError(f"`eval_share` must be at least 0 and below 1, got {self.eval_share}.")
        if self.eval_files and self.eval_share:
            raise ConfigurationError("Give `eval_files` or `eval_share`, not both.")
        if self.split_by and not self.eval_share:
            raise ConfigurationError("`split_by` says what `eval_share` holds out: give `eval_share` too.")
        if self.train_weights is not None and len(self.train_weights) != len(self.train_files):
            raise ConfigurationError(
                f"`train_weights` must have one entry for each of the {len(self.train_files)} entries of "
                f"`train_files`, got {len(self.train_weights)}."
            )

    @property
    def augmentation(self) -> "Augmentation | None":
        """`augment` as `CellCorpus` takes it."""
        if self.augment is None:
            return None
        from ...corpora.augmentation import Augmentation

        return Augmentation.from_mapping(read_mapping("augment", self.augment))

    @property
    def conditions(self) -> dict[str, Any]:
        """`where` as `CellCorpus` takes it."""
        from ...corpora.filters import read_conditions

        return dict(self.where) if isinstance(self.where, Mapping) else read_conditions(self.where or ())


def check_files(data: DataArguments) -> None:
    """Find out before a model is loaded that a file is missing.

    Raises:
        CorpusError: it is, or a folder holds no file of cells.
    """
    from ...sources.opening import name_paths

    for files in (data.train_files, data.eval_files):
        for path in name_paths(files).values() if files else ():
            if not path.exists():
                raise CorpusError(f"`{path}` does not exist.")
