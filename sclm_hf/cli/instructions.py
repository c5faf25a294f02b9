"""What `sclm-hf corpus build --instructions TASK` takes, and what it runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..tasks.running.settings import setting

if TYPE_CHECKING:
    from ..corpora.cell_corpus import CellCorpus
    from ..text.conversations import Conversations


@dataclass(frozen=True, kw_only=True)
class InstructionSettings:
    """Which conversations are made of cells."""

    column: list[str] | None = setting(
        None, "with --instructions: SLOT=COLUMN, the column of obs that fills a slot of the task; may be repeated."
    )
    fixed: list[str] | None = setting(
        None, "with --instructions: SLOT=TEXT, for a slot that is the same for all cells; may be repeated."
    )
    bin: list[str] | None = setting(
        None, "with --instructions: SLOT:LABEL=UPPER_BOUND, repeated and ascending, where a column holds numbers."
    )
    control: str | None = setting(None, "with --instructions perturb: the perturbation that means none.")
    match: list[str] | None = setting(
        None, "with --instructions: column of obs whose values the cells of a question share; may be repeated."
    )
    cells: tuple[int, int] | None = setting(
        None, "with --instructions assign: least and most cells of a puzzle; by default 8 15."
    )
    marker_rules: bool = setting(
        False, "with --instructions describe: cite the rules of the package axiom-sc.", flag="--marker-rules"
    )
    n_genes: int = setting(100, "with --instructions: genes of a cell's sentence, the most expressed ones.", least=1)
    templates: str = setting("train", "with --instructions: wordings, `train`, `held_out` or `all`.")
    unlabelled: str = setting(
        "refuse", "with --instructions: `refuse` cells without a value in a column that is used, or `drop` them."
    )
    seed: int = setting(0, "seed of what is random about a cell.")

    def refuse_alone(self) -> None:
        """Refuse settings of conversations where none are asked for."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) != field.default:
                raise ConfigurationError(
                    f"`--{field.name.replace('_', '-')}` is about conversations: give `--instructions TASK` too."
                )

    def open(
        self, task: str, inputs: Any, *, organism: str, layer: str | None, where: Mapping[str, Any]
    ) -> "Conversations":
        """The conversations of a task.

        Args:
            task: the task, or a file with its wordings.
            inputs: files, as for `CellCorpus`.
            organism: what prompts call the species.
            layer, where: as for `CellCorpus`.
        """
        from ..text.bins import read_bins
        from ..text.conversations import Conversations
        from ..text.rules import axiom_rules

        columns = _pairs("--column", self.column)
        used = dict.fromkeys([*columns.values(), *(self.match or ())])
        return Conversations(
            self._corpus(inputs, list(used), layer, where),
            task,
            organism=organism,
            columns=columns,
            fixed=_pairs("--fixed", self.fixed),
            bins=read_bins(self.bin or ()),
            control=self.control,
            match=self.match or (),
            cells=self.cells,
            rules=axiom_rules() if self.marker_rules else None,
            templates=self.templates,
        )

    def _corpus(self, inputs: Any, columns: list[str], layer: str | None, where: Mapping[str, Any]) -> "CellCorpus":
        from ..corpora.cell_corpus import CellCorpus
        from ..text.cell_words import sentence_processor
        from ..training.data import gene_names
        from ..training.settings.data import DataArguments

        paths = inputs.values() if isinstance(inputs, Mapping) else inputs
        genes = gene_names(DataArguments(list(map(str, paths)), layer=layer), "any")
        return CellCorpus(
            inputs,
            sentence_processor(genes, self.n_genes),
            task_columns=columns,
            unlabelled=self.unlabelled,
            layer=layer,
            where=where,
            seed=self.seed,
        )


def build_instructions(
    settings: InstructionSettings, task: str, inputs: Any, output: Path, *, shard_size: int, **about: Any
) -> str:
    """Write conversations; says what was written.

    Args:
        settings: which conversations.
        task: the task.
        inputs: files, as for `CellCorpus`.
        output: the folder.
        shard_size: most cells of a shard.
        **about: `organism`, `layer`, `where`, `title`, `license` and `description`.
    """
    from ..logging import counted
    from ..text.building import build_conversations

    organism = "human" if about["organism"] == "unknown" else about["organism"]
    conversations = settings.open(task, inputs, organism=organism, layer=about["layer"], where=about["where"])
    built = build_conversations(
        conversations,
        output,
        shard_size=shard_size,
        title=about["title"],
        license=about["license"],
        description=about["description"],
    )
    rows, cells = counted(built["n_rows"], "conversation"), counted(len(conversations.corpus), "cell")
    return f"{output} holds {rows} of {cells} in {counted(len(built['shards']), 'shard')}."


def _pairs(flag: str, texts: Sequence[str] | None) -> dict[str, str]:
    """Slot -> what was given for it.

    Raises:
        ConfigurationError: a text is no pair, or a slot comes twice.
    """
    pairs: dict[str, str] = {}
    for text in texts or ():
        slot, mark, value = text.partition("=")
        if not (slot and mark and value) or slot in pairs:
            raise ConfigurationError(f"`{flag}` must be SLOT=VALUE, each slot once, got `{text}`.")
        pairs[slot] = value
    return pairs
