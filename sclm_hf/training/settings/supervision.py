"""What labels mean and what they count."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import ConfigurationError
from ..arguments import option


@dataclass(kw_only=True)
class LossArguments:
    """What rare labels count in the loss of a classifier."""

    class_weights: Literal["none", "balanced"] = option(
        "none", "balanced: each label counts the same, however many cells have it."
    )
    loss: Literal["cross_entropy", "ldam"] = option(
        "cross_entropy", "ldam: rare classes must be told from others by larger margins (Cao et al. 2019)."
    )

    @property
    def weighs_labels(self) -> bool:
        """Whether they count anything but the same."""
        return self.class_weights != "none" or self.loss != "cross_entropy"


@dataclass(kw_only=True)
class SupervisionArguments(LossArguments):
    """What labels mean, and what they count.

    Raises:
        ConfigurationError: a weight is negative, or settings of labels are given without labels.
    """

    label_column: list[str] | None = field(
        default=None,
        metadata={
            "help": "With `objective` supervised or contrastive: column of obs with the label of each cell; several, "
            "of which each file uses the first that it has; or FILE=COLUMN for each file."
        },
    )
    ontology: str | None = option(
        None,
        "What the labels mean, so that files whose names differ in grain train together: blood, retina, heart, "
        "pancreas or a YAML file, several joined by +; or cl, the Cell Ontology. By default each name is a class.",
    )
    unlabelled: Literal["refuse", "drop"] = option("refuse", "What to do with cells without a label.")
    unknown_labels: Literal["refuse", "drop"] = option(
        "refuse", "What to do with cells whose label the ontology does not know."
    )
    denoising_weight: float = option(
        0.0, "Weight of a second loss, the error of the values of genes predicted from the cell embedding; 0 = none."
    )
    embedding_weight: float = option(
        0.0,
        "Weight of a loss of labels told from the cell embedding alone, for families whose classifier reads something "
        "else; 0 = none.",
    )
    spread_weight: float = option(
        0.0,
        "Weight of a loss that spreads the variance of the cell embeddings of a batch over many directions; 0 = none.",
    )
    balance_labels: float | None = option(
        None,
        "Draw cells of rare labels more often, with repetition: a cell's weight in its file is the number of cells "
        "with its label to this power, -1 (all labels alike) to 0; a file's share grows with the root of its cells.",
    )

    def __post_init__(self) -> None:
        for name in ("denoising_weight", "embedding_weight", "spread_weight"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")

    @property
    def label_options(self) -> dict[str, Any]:
        """The labels as `CellCorpus` takes them."""
        from ...corpora.labels.columns import read_label_column

        return {
            "label_column": read_label_column(self.label_column),
            "unlabelled": self.unlabelled,
            "ontology": self.ontology,
            "unknown_labels": self.unknown_labels,
            "balance_labels": self.balance_labels,
        }
