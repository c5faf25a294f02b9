"""Which model is pre-trained, and on which objective."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import ConfigurationError
from ...registry import FAMILIES
from ..arguments import option
from .lora import LoraArguments
from .supervision import SupervisionArguments

SUPERVISED, CONTRASTIVE = "supervised", "contrastive"
OF_ALL_FAMILIES = (SUPERVISED, CONTRASTIVE)
"""Objectives that go with every family."""

OBJECTIVES = tuple(sorted({*OF_ALL_FAMILIES, *(name for family in FAMILIES.values() for name in family.objectives)}))
"""All objectives of pre-training."""

_SETTINGS = {
    "label_column": OF_ALL_FAMILIES,
    "ontology": OF_ALL_FAMILIES,
    "balance_labels": OF_ALL_FAMILIES,
    "denoising_weight": (SUPERVISED,),
    "embedding_weight": (SUPERVISED,),
    "spread_weight": (SUPERVISED,),
    "class_weights": (SUPERVISED,),
    "loss": (SUPERVISED,),
    "temperature": (CONTRASTIVE,),
}
"""Setting -> the objectives that have it."""

SVD = "svd"
SUFFIXES = (".safetensors", ".npz", ".csv")


@dataclass
class PretrainArguments(SupervisionArguments, LoraArguments):
    """Which model is pre-trained, and on which objective.

    Raises:
        ConfigurationError: two settings contradict one another.
    """

    model_name_or_path: str | None = option(None, "Folder or repository to go on from; by default a new model.")
    family: str = option("scgpt", "Family of a new model.")
    lora_r: int = field(
        default=0,
        kw_only=True,
        metadata={
            "help": "Rank of a LoRA that is trained, beside the head, instead of all weights of `model_name_or_path`; "
            "0 = all weights. `adapter` in the output is the LoRA, and the model there has it merged."
        },
    )
    vocabulary: str | None = option(None, "Gene vocabulary of a new model; by default the genes of `train_files`.")
    min_files: int = option(
        1, "Without `vocabulary`: leave out genes that fewer of `train_files` measure (of fewer files, all must)."
    )
    max_genes: int = option(
        0,
        "Without `vocabulary`: keep so many genes, those whose log-normalised counts vary most over the cells that "
        "measure them; 0 = all.",
    )
    model_config: str | None = option(None, "Configuration of a new model: a mapping, as JSON on the command line.")
    encoding: str | None = option(None, "Changes to the family's published encoding: a mapping, as JSON.")
    gene_embeddings: str | None = option(
        None,
        "Where the gene embeddings of a new model start: `svd`, from the co-expression of the cells to train on, or a "
        ".csv, .npz or .safetensors with a vector per gene name. By default at random.",
    )
    objective: Literal[*OBJECTIVES] | None = option(
        None,
        "What is predicted; by default as published for the family. With every family go `supervised`, which trains a "
        "classifier, and `contrastive`, which trains an encoder on two views of each cell and on labels, if given.",
    )
    mask_ratio: list[float] | None = field(
        default=None,
        metadata={"help": "Share of genes to predict; of several shares, one is drawn. By default as published."},
    )
    ratio_per: Literal["batch", "cell"] = option("batch", "Draw one of several `mask_ratio` per batch or per cell.")
    temperature: float = option(0.1, "With `objective` contrastive: by which similarities are divided.")
    probe_column: list[str] | None = field(
        default=None,
        metadata={
            "help": "Column of obs with labels of the cells to evaluate on, by which a probe says at each evaluation "
            "what the cell embedding is worth (several: each file uses the first that it has); by default "
            "`label_column`."
        },
    )
    stop_on_collapse: bool = option(
        True, "Stop when the cell embedding collapses: when two evaluations in a row find cells nearly alike."
    )
    second_pass_after: int = option(1000, "Steps before generation from the cell embedding joins in; -1 = never.")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_supervision()
        describes_new = self.vocabulary or self.model_config or self.encoding or self.gene_embeddings
        if self.model_name_or_path and describes_new:
            raise ConfigurationError(
                "`vocabulary`, `model_config`, `encoding` and `gene_embeddings` describe a new model: they do not go "
                "with `model_name_or_path`, which brings its own."
            )
        self._check_genes()
        self._check_lora()
        if self.gene_embeddings:
            check_start(self.gene_embeddings)

    def _check_genes(self) -> None:
        for name, least in (("min_files", 1), ("max_genes", 0)):
            value = getattr(self, name)
            if value < least:
                raise ConfigurationError(f"`{name}` must be at least {least}, got {value}.")
            if value > least and (self.vocabulary or self.model_name_or_path):
                raise ConfigurationError(
                    f"`{name}` chooses genes of `train_files` for a new vocabulary: it does not go with `vocabulary` "
                    "or `model_name_or_path`, which bring theirs."
                )

    def _check_lora(self) -> None:
        if self.lora_r and not self.model_name_or_path:
            raise ConfigurationError(
                "`lora_r` adapts a pre-trained model: name it with `model_name_or_path`, or leave `lora_r` out."
            )
        others = [one for one in dataclasses.fields(LoraArguments) if one.name != "lora_r"]
        if not self.lora_r and (given := [one.name for one in others if getattr(self, one.name) != one.default]):
            raise ConfigurationError(f"`{given[0]}` belongs to a LoRA: give its rank with `lora_r`.")

    def _check_supervision(self) -> None:
        fields = {field.name: field for field in dataclasses.fields(self)}
        for name, objectives in _SETTINGS.items():
            if self.objective not in objectives and getattr(self, name) not in (None, fields[name].default):
                known = " or ".join(map(repr, objectives))
                raise ConfigurationError(
                    f"`{name}` belongs to the objective {known}: give `objective` (`--objective {objectives[0]}`), or "
                    f"leave `{name}` out."
                )
        if self.objective == SUPERVISED and not self.label_column:
            raise ConfigurationError("The objective 'supervised' needs labels: name their column with `label_column`.")
        if self.objective in OF_ALL_FAMILIES and self.mask_ratio is not None:
            raise ConfigurationError(
                f"The objective {self.objective!r} has no `mask_ratio` that could be set: leave it out."
            )
        if self.temperature <= 0:
            raise ConfigurationError(f"`temperature` must be above 0, got {self.temperature}.")


def check_start(start: str) -> None:
    """Find out before files of cells are read that there is no such start.

    Raises:
        ConfigurationError: it is neither `"svd"` nor a file of a kind that can be read.
    """
    if start != SVD and not (Path(start).suffix in SUFFIXES and Path(start).is_file()):
        raise ConfigurationError(
            f"`gene_embeddings` must be 'svd', or a file that ends in {', '.join(SUFFIXES)}; got {start!r}."
        )
