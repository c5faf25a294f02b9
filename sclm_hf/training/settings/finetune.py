"""Which model is fine-tuned, on which labels, and how."""

from dataclasses import dataclass, field

from ...errors import ConfigurationError
from ...registry import FAMILIES
from ..arguments import option
from .lora import LoraArguments
from .supervision import LossArguments

LINEAR = next(family.name for family in FAMILIES.values() if family.is_fitted)
"""Name of the family, by which `finetune` is asked for a new model."""

HEADS = ("lora", "full", "linear_beside", "probe")
BESIDE = "linear_beside"


@dataclass
class FinetuneArguments(LossArguments, LoraArguments):
    """Which model is fine-tuned, on which labels, and how.

    Raises:
        ConfigurationError: `label_column` and `task_columns` are given both or not at all, or weights do not fit.
    """

    model_name_or_path: str = field(
        metadata={
            "help": "Folder or repository of the pre-trained model; or `linear`, for logistic regression on z-scored "
            "counts, which needs none."
        }
    )
    label_column: str | None = option(None, "Column of obs with the label of each cell.")
    task_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Instead of `label_column`: columns of obs, one per task, learnt together (Geneformer)."},
    )
    task_weights: list[float] | None = field(
        default=None, metadata={"help": "Weights of the tasks' losses; by default 1 each."}
    )
    unlabelled: str = option("refuse", "What to do with cells without a label: refuse them, or drop them.")
    head: str = option(
        "lora",
        "What is trained: `lora` (a LoRA and the classifier), `full` (all weights), `linear_beside` (as `lora`, and a "
        "linear path from genes to labels beside the encoder), or `probe` (a logistic regression on the embeddings "
        "that the model gives as it is, which takes one pass over the cells).",
    )
    partners: bool = option(
        True,
        "Where there is one task: fit linear baselines on the same cells, weigh the model with them on cells that "
        "none of them saw (a fifth of the cells, unless others are named), and save those that count as its partners, "
        "which `annotate` uses.",
    )
    target_depth: int = option(
        0,
        "Counts per cell of the cells to annotate: partners, a probe and a linear model are fitted on cells thinned "
        "to as many, and each model is evaluated on such cells; 0 = as they are.",
    )
    ontology: str | None = option(
        None,
        "With `head` probe on a checkpoint of supervised pre-training: what the labels mean in terms of its classes; "
        "blood, retina, heart, pancreas or a YAML file, several joined by +; by default all that the package has.",
    )
    train_gene_embeddings: bool = option(False, "Train the gene embeddings in full, in addition to the LoRA.")

    def __post_init__(self) -> None:
        if bool(self.label_column) == bool(self.task_columns):
            raise ConfigurationError("Give `label_column`, or `task_columns` for several tasks; not both.")
        if self.head not in HEADS:
            raise ConfigurationError(f"`head` must be one of {', '.join(HEADS)}, got {self.head!r}.")
        if self.head in ("probe", BESIDE) and self.task_columns:
            raise ConfigurationError(f"With `head={self.head}` a model learns one task: give one `label_column`.")
        if self.weighs_labels and (self.task_columns or self.head == "probe" or self.model_name_or_path == LINEAR):
            raise ConfigurationError(
                "`class_weights` and `loss` are for a classifier of one `label_column` that is trained step by step: "
                "leave them out with `task_columns`, `head=probe` and `linear`."
            )
        if self.target_depth < 0:
            raise ConfigurationError(f"`target_depth` must be 0 or more, got {self.target_depth}.")
        if self.unlabelled not in ("refuse", "drop"):
            raise ConfigurationError(f"`unlabelled` must be refuse or drop, got {self.unlabelled!r}.")
        tasks = self.task_columns or []
        if len(set(tasks)) < len(tasks):
            raise ConfigurationError(f"`task_columns` names a column twice: {', '.join(tasks)}.")
        if self.task_weights is not None and len(self.task_weights) != len(tasks):
            raise ConfigurationError(
                f"`task_weights` must have one entry for each of the {len(tasks)} `task_columns`, got "
                f"{len(self.task_weights)}."
            )
