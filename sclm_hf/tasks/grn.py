"""`grn`: networks of genes, from what a model knows of them and from cells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..errors import CheckpointError, ConfigurationError
from .running.settings import GENES, RunSettings, setting
from .running.verb import Verb, documented_by

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData
    from pandas import DataFrame

    from ..opening.loading import LoadedModel
    from ..sources.cell_source import CellSource
    from ..tokenization.processing_cell import CellProcessor
    from .files.pieces import Pieces

OF_A_MODEL = ("embeddings", "context", "attention", "perturbation")
BY_DEFAULT = "embeddings"
OF_CELLS = ("pearson", "spearman", "trees", "random")


@dataclass(frozen=True, kw_only=True)
class GrnSettings(RunSettings):
    """Settings of [`grn`].

    Raises:
        ConfigurationError: settings contradict one another, or a value is out of range.
    """

    evidence: str = setting(
        BY_DEFAULT,
        "what speaks for an edge. `embeddings`: the cosine of the embeddings that the model starts from; `context`: "
        "that of the means, over cells, of what its last layer says of each gene; `attention`: how much the target "
        "attends to the regulator, in ranks, as with scGPT; `perturbation`: how far its last layer moves the target "
        "when the regulator is deleted (a run per regulator and cell: name few, set `max_cells`). Without a model: "
        "`pearson` or `spearman`, the absolute correlation over cells; `trees`, gradient boosting (one ensemble per "
        "target, so it takes long); `random`. A task-specific model of networks is evidence of its own, under its "
        "name (`stgrns`, `deepmaps`), and asks no other.",
    )
    genes: "str | Sequence[str] | None" = setting(
        None, "names of the targets, in the command separated by commas; by default the most variable genes."
    )
    n_genes: int = setting(1000, "how many of the most variable genes.", least=2)
    regulators: "str | Path | Sequence[str] | None" = setting(
        None,
        "names of the genes that may regulate others, for example transcription factors, or a file with one name per "
        "line; by default the targets.",
    )
    attention_layers: str = setting(
        "last", "whose attention: `last`, `all`, or the number of a layer, 0 being the first."
    )
    sign: Literal["correlation", "model"] = setting(
        "correlation",
        "where the signs of edges come from: `correlation` over the cells; or, with `evidence` `perturbation`, the "
        "`model`: whether it predicts less or more of the target when the regulator is deleted, which takes the "
        "decoder of its pre-training.",
    )
    n_edges: int = setting(100_000, "how many edges to keep, the strongest; for each condition.", least=1)
    condition_key: str | None = setting(
        None, "column of `obs` with conditions or cell types; each then gets a network of its own."
    )
    reference: str | None = setting(
        None,
        "a condition that the others are compared with: scores are then the differences of their scores and its own.",
    )
    max_cells: int | None = setting(
        None, "take at most this many cells, drawn with `seed`; of each condition.", least=10
    )
    network: "str | Path | None" = setting(
        None,
        "file of known edges (`.csv`, `.tsv` or `.parquet` with the columns `regulator` or `tf` or `source`, and "
        "`target`; or `.json`, regulator to targets) that the scores are compared with.",
    )
    baselines: str = setting(
        "random,pearson,spearman",
        "what is compared with the known edges beside the scores, separated by commas: names as for `evidence` that "
        "need no model.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = (*OF_A_MODEL, *OF_CELLS, *_specialists())
        if self.evidence not in known:
            raise ConfigurationError(
                f"`evidence` (`--evidence`) must be one of {', '.join(known)}, got {self.evidence!r}."
            )
        if unknown := [name for name in self.baseline_names if name not in OF_CELLS]:
            raise ConfigurationError(f"`baselines` (`--baselines`) are of {', '.join(OF_CELLS)}, got {unknown[0]!r}.")
        if self.attention_layers not in ("last", "all") and not self.attention_layers.isdecimal():
            raise ConfigurationError(
                "`attention_layers` (`--attention-layers`) must be 'last', 'all' or the number of a layer, got "
                f"{self.attention_layers!r}."
            )
        if self.sign not in ("correlation", "model"):
            raise ConfigurationError(f"`sign` (`--sign`) must be 'correlation' or 'model', got {self.sign!r}.")
        if self.sign == "model" and self.evidence != "perturbation":
            raise ConfigurationError(
                "A model tells signs by deleting genes: with `sign='model'` (`--sign model`) take "
                "`evidence='perturbation'` (`--evidence perturbation`)."
            )
        if self.reference is not None and self.condition_key is None:
            raise ConfigurationError(
                "`reference` (`--reference`) is a condition: name their column with `condition_key` "
                "(`--condition-key`)."
            )
        if self.condition_key is not None and self.evidence == "embeddings":
            raise ConfigurationError(
                "The embeddings that a model starts from are the same under all conditions: leave out `condition_key` "
                "(`--condition-key`), or take another `evidence` (`--evidence`), for example `context`."
            )

    @property
    def baseline_names(self) -> list[str]:
        return [name.strip() for name in self.baselines.split(",") if name.strip()]

    @property
    def gene_names(self) -> "Sequence[str] | None":
        """Names of the targets."""
        from .running.gene_names import read_names

        return read_names(self.genes, GENES)

    def to_record(self) -> dict[str, Any]:
        """What the results depend on, by name, as text or numbers."""
        texts = {"genes": self.gene_names, "regulators": self.regulators, "network": self.network}
        joined = {
            name: value
            if value is None or isinstance(value, str) or hasattr(value, "__fspath__")
            else "; ".join(value)
            for name, value in texts.items()
        }
        return {**super().to_record(), **{name: value and str(value) for name, value in joined.items()}}

    def depends_on(self) -> dict[str, Any]:
        """What the results depend on: the regulators that a file of them holds."""
        from .running.gene_names import read_names

        return {**super().depends_on(), "regulators": read_names(self.regulators, "`regulators` (`--regulators`)")}


def _specialists() -> list[str]:
    """Names of the task-specific models that make networks."""
    from ..registry.specialists import SPECIALISTS

    return [name for name, record in SPECIALISTS.items() if "grn" in record.verbs]


class GrnVerb(Verb):
    """The verb, whose model keeps its decoder where that tells signs, and which may have none."""

    def make(
        self, cells: "CellSource", loaded: "LoadedModel | None", settings: GrnSettings, pieces: "Pieces | None"
    ) -> "DataFrame":
        """See [`grn`]."""
        from .networks.inferring import network_of

        return network_of(cells, loaded, settings, pieces=pieces)

    def load(self, model: Any, processor: "CellProcessor | None", settings: GrnSettings) -> Any:
        """Load the model, if there is one.

        Raises:
            CheckpointError: signs are asked of a model that predicts no expression.
            ConfigurationError: the evidence asks a model, or another one.
        """
        if model is None and settings.evidence not in OF_CELLS:
            raise ConfigurationError(
                f"`evidence={settings.evidence!r}` asks a model: name one with `model` (`--model`), or take evidence "
                f"of cells (`--evidence`): {', '.join(OF_CELLS)}."
            )
        if model is None:
            return None
        if settings.evidence in _specialists():
            from .networks.specialists import load_specialist_for

            # refuses other models
            load_specialist_for(self, model, processor, settings)
        if settings.sign != "model":
            return super().load(model, processor, settings)
        # the record is the same but for the class
        loaded = Verb.load(replace(self, auto_class="AutoModelForPreTraining"), model, processor, settings)
        if getattr(loaded.model, "predicted_expression", None) not in ("counts", "log-normalised", "bins"):
            raise CheckpointError(
                f"`{loaded.name}` ({type(loaded.model).__name__}) predicts no expression, and tells no signs: leave "
                "out `sign` (`--sign`), or give a model of pre-training with its decoder of expression."
            )
        return loaded


GRN = GrnVerb(
    name="grn",
    auto_class="AutoModel",
    settings=GrnSettings,
    gives_table=True,
    by_pieces=True,
    usage='edges = sclm_hf.grn(cells, "{model}", evidence="context")\nedges.head()  # regulator, target, sign, score',
)


@documented_by(GRN)
def grn(adata: "AnnData", model: Any = None, processor: "CellProcessor | None" = None, **settings: Any) -> "DataFrame":
    """Infer a network of genes, and compare it with known edges.

    What correlates need not regulate: without known edges to compare with, a network is a list of suggestions.
    `context`, `attention` and `perturbation` know only the genes that a cell has room for. Where the model reads few,
    give cells with the genes of interest alone, `adata[:, genes]`, as scGPT's authors do for attention.

    Args:
        adata: cells with raw counts.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model; None for evidence that needs
            none.
        processor: the processor; by default the one saved with the model.
        **settings: the fields of [`GrnSettings`].

    Returns:
        A data frame of edges, the strongest first, with the columns

        - `regulator` and `target`: names of genes as in the data. Evidence that means the same both ways lists two
          genes that both may regulate once;
        - `sign`: 1 or -1, where its 95 % interval over the cells leaves out 0, and `sign_source`, what it comes from:
          the `correlation` of the two, or the `model`, 1 where it predicts less of the target without the regulator;
        - `score`, higher = more likely, and `evidence`, what it comes from;
        - `condition`, with `condition_key`.

        `attrs["grn"]` says how it was made; with `network`, `attrs["scores"]` has one record per method and condition,
        baselines first: `method`, `condition`, `n_edges` known among `n_pairs`, and with `_low` and `_high`, their
        95 % intervals over regulators, `auprc_ratio` and `early_precision_ratio` (1 = chance) and `auroc`; of one
        regulator the ends are NaN. These are made from all pairs, not only from the edges that were kept, but without
        those that a task-specific model was told of in training.
        [`gene_programs`](sclm_hf.tasks.networks.edges.gene_programs) makes communities of genes of the table, and
        [`plot_network`](sclm_hf.evaluation.plots.plot_network) draws it.

    Raises:
        ConfigurationError: settings contradict one another or the data: genes, regulators, conditions or known edges
            are absent, there is one condition only, or too few cells.
        CheckpointError: the model cannot be read.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are no counts.
    """
    from .networks.inferring import infer_network
    from .networks.specialists import with_evidence

    return infer_network(adata, GRN, model, processor, GRN.choose(with_evidence(model, settings, BY_DEFAULT)))
