"""Which encoders of cells and texts are joined."""

from dataclasses import dataclass, field
from typing import Any, Literal

from ...errors import ConfigurationError
from ..arguments import option

NEW = "new"


@dataclass
class AlignArguments:
    """Which two encoders are joined, and which texts describe which cells.

    Raises:
        ConfigurationError: nothing would be trained.
    """

    model_name_or_path: str = field(metadata={"help": "Folder or repository of the encoder of cells."})
    label_column: str = field(metadata={"help": "Column of obs with the label of each cell."})
    text_model: str = option(
        NEW,
        "Folder or repository of the encoder of texts, or of a causal language model; `new` = a small one, trained "
        "from scratch, that knows the words of the descriptions.",
    )
    labels: str | None = option(
        None,
        "Descriptions of the labels: a CSV table with the columns `label` and `text` (a label may have several rows), "
        "or a JSON mapping; by default the labels are names of the Cell Ontology, whose definitions are taken.",
    )
    unlabelled: Literal["refuse", "drop"] = option("refuse", "What to do with cells without a label.")
    lock: Literal["none", "cell", "text"] = option("none", "Which encoder stays as it is.")
    projection_dim: int = option(256, "Width of the shared space.")
    projection: Literal["linear", "mlp"] = option("linear", "How both encoders reach it.")
    text_pooling: Literal["mean", "last", "cls"] = option(
        "mean", "What stands for a text: the mean of its tokens, the last (causal language models) or the first."
    )
    matching_layers: int = option(0, "Layers of a head that tells from the tokens of both whether a text fits a cell.")

    def __post_init__(self) -> None:
        if self.text_model == NEW and self.lock == "text":
            raise ConfigurationError("A new text encoder knows nothing yet: train it (`lock` none or cell).")

    @property
    def model_settings(self) -> dict[str, Any]:
        """Settings of `CellTextDualEncoderConfig`."""
        names = ("projection_dim", "projection", "text_pooling", "matching_layers")
        return {name: getattr(self, name) for name in names}
