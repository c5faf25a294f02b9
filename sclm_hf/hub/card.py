"""Model cards that say only what is known: facts go in as data, `README.md` and `.eval_results/` come out."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._version import __version__
from ..adapters.settings import read_adapter_settings
from ..cards import render
from ..errors import CheckpointError, ConfigurationError, SclmError
from ..evaluation.metrics import ClassScore
from ..evaluation.reports import ResultsTable
from ..files import read_json_object, write_text
from ..opening.families import encoder_family, family_of, read_config
from ..opening.files import ADAPTER_CONFIG
from ..opening.kinds import labels_cells
from ..opening.partners import PARTNERS_FILE, SAVED
from ..opening.specialists import load_specialist_processor
from ..registry import COMPOSITES, Composite, Family, get_family
from ..registry.language_model import LANGUAGE_MODEL
from ..registry.specialists import SPECIALISTS, Specialist
from ..tasks import get_verb, verb_names
from ..text.closed_set import CANDIDATES_FILE, is_language_model, read_candidates, text_encoder_family
from .emissions import Energy, read_emissions
from .evaluation_results import to_model_index, write_evaluation_results

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from ..modeling.common.conversion import LoadingReport

FACTS_FILE = "card_facts.json"
PLACEHOLDER = "path/to/this/folder"
"""What the example of a card loads as long as nobody has said where the model is."""
_JOINED = COMPOSITES | {LANGUAGE_MODEL.name: LANGUAGE_MODEL}
_TAGS = ["biology", "single-cell", "transcriptomics", "scRNA-seq"]
_READING = """\
import anndata, sclm_hf

cells = anndata.read_h5ad("cells.h5ad")  # raw counts
"""


@dataclass(frozen=True)
class TrainingData:
    """Cells that a model has seen.

    Attributes:
        name: name of the data set, and what it was used for.
        n_cells: number of cells.
        n_genes: number of genes measured.
        source: where it comes from, with its version.
        license: its licence, as far as known.
    """

    name: str
    n_cells: int
    n_genes: int
    source: str
    license: str


@dataclass
class CardFacts:
    """Everything a card says.

    Attributes:
        title: name of the model.
        family: its family, a key of `registry.FAMILIES`; or a key of `registry.COMPOSITES` or of
            `registry.specialists.SPECIALISTS`; or `language_model`, for one that reads cells as text.
        license: identifier that the Hub knows (`"mit"`, `"apache-2.0"`, …), or `"other"` with `license_name`.
        summary: what the model is, in one or two sentences.
        task: the verb whose use the card shows, for example `"embed"` or `"annotate"`; `None` where
            only the example of `registry.COMPOSITES` is to be shown.
        model: what users load: a repository id, or a path.
        base_model: repository id or path of the model this one started from.
        is_adapter: whether this is a PEFT adapter of `base_model`.
        license_name: name of a licence that the Hub does not know.
        license_link: where that licence can be read.
        license_note: what else is to be said about the licence.
        training_data: the data sets the model has seen.
        coverage: source -> `GeneCoverage.to_dict()` of it.
        label_names: labels of a classifier, in order.
        settings: settings of the training that a reader would ask for.
        results: tables of results, baselines included.
        evaluated_method: name that this model has in `results`.
        class_scores: how well each label was predicted, from `metrics.class_scores`.
        pictures: path of a picture, relative to the card -> what it shows.
        command: the command that regenerates the results.
        limits: what the model cannot do, or was not tested for.
        citations: what else to cite, one entry each.
        cell_encoder: family of the cell encoder, of a model of cells and text that has one.
        text_model: what its text model is.
        text_license: the licence of that text model, as far as known.
        energy: what training used; None where nobody measured it.
        brings_code: whether the folder holds the code that opens it (`hub.remote_code`).
    """

    title: str
    family: str
    license: str
    summary: str
    task: str | None = "embed"
    model: str = PLACEHOLDER
    base_model: str | None = None
    is_adapter: bool = False
    license_name: str | None = None
    license_link: str | None = None
    license_note: str | None = None
    training_data: list[TrainingData] = field(default_factory=list)
    coverage: dict[str, dict[str, Any]] = field(default_factory=dict)
    label_names: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    results: list[ResultsTable] = field(default_factory=list)
    evaluated_method: str | None = None
    class_scores: list[ClassScore] = field(default_factory=list)
    pictures: dict[str, str] = field(default_factory=dict)
    command: str | None = None
    limits: list[str] = field(default_factory=list)
    citations: list[str] = field(default_factory=list)
    cell_encoder: str | None = None
    text_model: str | None = None
    text_license: str | None = None
    energy: Energy | None = None
    brings_code: bool = False

    def __post_init__(self) -> None:
        has_encoder = self.cell_encoder or self.family == LANGUAGE_MODEL.name
        if self.family in _JOINED and not (has_encoder and self.text_model):
            raise ConfigurationError(f"The card of a `{self.family}` model needs `cell_encoder` and `text_model`.")
        self.encoder()
        if self.task not in verb_names() and not (self.task is None and self.family in COMPOSITES):
            raise ConfigurationError(f"Unknown `task` {self.task!r}: expected one of {', '.join(verb_names())}.")
        if self.license == "other" and not self.license_name:
            raise ConfigurationError("With `license='other'` the card needs a `license_name`.")
        for table in self.results:
            if self.evaluated_method not in {one.method for one in table.results}:
                raise ConfigurationError(
                    f"`evaluated_method` {self.evaluated_method!r} is not a method of the results on {table.dataset}: "
                    f"expected one of {sorted({one.method for one in table.results})}."
                )

    def encoder(self) -> Family | None:
        """The family of what reads cells; None of a language model of names of genes, and of a task-specific model.

        Raises:
            ConfigurationError: there is no such family.
        """
        if self.family in SPECIALISTS:
            return None
        name = self.cell_encoder if self.family in _JOINED else self.family
        return None if name is None else get_family(name)

    def save(self, path: str | Path) -> None:
        """Write the facts as JSON."""
        write_text(path, self.to_json())

    def to_json(self) -> str:
        """The facts as JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "CardFacts":
        """Read what `save` wrote.

        Raises:
            ConfigurationError: the file does not hold the facts of a card.
        """
        content = read_json_object(Path(path), ConfigurationError)
        try:
            content["training_data"] = [TrainingData(**one) for one in content["training_data"]]
            content["results"] = [ResultsTable.from_dict(one) for one in content["results"]]
            content["class_scores"] = [ClassScore(*one) for one in content.get("class_scores", ())]
            content["energy"] = Energy(**content["energy"]) if content.get("energy") else None
            return cls(**content)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(f"`{path}` does not hold the facts of a model card: {error}") from error


def start_facts(folder: str | Path, *, license: str | None) -> CardFacts:
    """The facts that a folder shows by itself: family, task and labels of a model, and the base of an adapter.

    Raises:
        ConfigurationError: there is no such folder, or no licence was given.
        CheckpointError: its configuration cannot be read, or is that of no family.
    """
    folder = Path(folder)
    is_adapter = (folder / ADAPTER_CONFIG).exists()
    if not folder.is_dir():
        raise ConfigurationError(f"`{folder}` is not a checkpoint folder.")
    config = read_config(str(folder))
    specialist = SPECIALISTS.get(config.get("model_type"))
    reads_text = specialist is None and is_language_model(folder)
    family = specialist or (LANGUAGE_MODEL if reads_text else family_of(str(folder))[0])
    if license is None:
        raise ConfigurationError("A new card needs the licence of the checkpoint, for example `--license mit`.")
    if specialist is not None:
        return _specialist_facts(folder, specialist, config, license, is_adapter=is_adapter)
    if reads_text:
        encoder, text = text_encoder_family(folder), config["model_type"]
        return _joined_facts(folder, LANGUAGE_MODEL, encoder, text, license, is_adapter=is_adapter)
    if family.name in COMPOSITES:
        encoder, text = encoder_family(str(folder)), config.get("text_config", {}).get("model_type", "unknown")
        return _joined_facts(folder, family, encoder, text, license, is_adapter=is_adapter)
    classifies = any(map(labels_cells, config.get("architectures") or ()))
    return CardFacts(
        title=folder.resolve().name,
        family=family.name,
        license=license,
        summary=f"A {family.title} checkpoint.",
        task="annotate" if classifies else "embed",
        base_model=read_adapter_settings(str(folder)).get("base_model_name_or_path") if is_adapter else None,
        is_adapter=is_adapter,
        label_names=list(config.get("id2label", {}).values()) if classifies else [],
        brings_code="auto_map" in config,
        energy=read_emissions(folder),
        **_compared(folder),
    )


def _specialist_facts(
    folder: Path, record: Specialist, config: dict[str, Any], license: str, *, is_adapter: bool
) -> CardFacts:
    classifies = any(map(labels_cells, config.get("architectures") or ()))
    joins = "multimodal" in record.verbs and _modalities(folder, record)
    return CardFacts(
        title=folder.resolve().name,
        family=record.name,
        license=license,
        summary=f"A {record.title} model, which {record.task}.",
        task="multimodal" if joins else next(iter(record.verbs)),
        base_model=read_adapter_settings(str(folder)).get("base_model_name_or_path") if is_adapter else None,
        is_adapter=is_adapter,
        label_names=list(config.get("id2label", {}).values()) if classifies else [],
        limits=["It answers only for the cells that it was trained on."] if record.transductive else [],
        energy=read_emissions(folder),
    )


def _modalities(folder: Path, record: Specialist) -> tuple[str, ...]:
    """The modalities that a model of a folder reads; none where it reads one, or has no processor."""
    # an adapter has a card even where its base cannot be reached
    with suppress(SclmError, OSError):
        if processor := load_specialist_processor(record, str(folder)):
            return processor.modalities
    return ()


def _joined_facts(
    folder: Path, composite: Composite, encoder: Family | None, text: str, license: str, *, is_adapter: bool
) -> CardFacts:
    if composite is LANGUAGE_MODEL:
        cells = f"code words of embeddings by {encoder.title}" if encoder else "names of genes"
        summary = f"A `{text}` language model that reads cells as {cells}."
    else:
        title = composite.title[0].lower() + composite.title[1:]
        summary = f"A {title} of {encoder.title} and a `{text}` model."
    candidates = folder / CANDIDATES_FILE
    has_answers = candidates.exists()
    return CardFacts(
        title=folder.resolve().name,
        family=composite.name,
        license=license,
        summary=summary,
        task="search" if composite.name == "cell_text_dual_encoder" else ("annotate" if has_answers else None),
        base_model=read_adapter_settings(str(folder)).get("base_model_name_or_path") if is_adapter else None,
        is_adapter=is_adapter,
        label_names=read_candidates(candidates).labels if has_answers else [],
        cell_encoder=None if encoder is None else encoder.name,
        text_model=f"`{text}` of transformers",
        energy=read_emissions(folder),
        **_compared(folder),
    )


def _compared(folder: Path) -> dict[str, Any]:
    """The scores of a fine-tuned model, of linear baselines and of all together, where training left them."""
    if not (folder / PARTNERS_FILE).exists():
        return {}
    try:
        table = ResultsTable.from_dict(read_json_object(folder / PARTNERS_FILE)["comparison"]["table"])
        return {"results": [table], "evaluated_method": SAVED}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"`{folder / PARTNERS_FILE}` does not hold the scores that training writes.") from error


def facts_of_conversion(source: Path, report: "LoadingReport") -> CardFacts:
    """The facts of a checkpoint that was converted from the release at `source`."""
    if report.family in SPECIALISTS:
        record = SPECIALISTS[report.family]
        return CardFacts(
            title=f"{record.title} ({source.resolve().name})",
            family=record.name,
            license="other",
            license_name="none-stated",
            license_note=f"No weights were published; these are somebody's own. Code of the original: "
            f"{record.code_license}.",
            summary=f"Weights of the original {record.title} under our names. A processor is not among them.",
            task=next(iter(record.verbs)),
            settings={"converted from": ", ".join(report.source), "tensors dropped": len(report.dropped)},
        )
    family = get_family(report.family)
    return CardFacts(
        title=f"{family.title} ({source.resolve().name})",
        family=family.name,
        license=family.weights_license,
        license_name=family.weights_license_name,
        license_link=family.weights_license_link,
        license_note=family.weights_license_note,
        summary=f"An original {family.title} checkpoint of {family.repository}, converted without changing a number.",
        settings={"converted from": ", ".join(report.source), "tensors dropped": len(report.dropped)},
    )


def render_card(facts: CardFacts) -> "ModelCard":
    """The card as a `huggingface_hub.ModelCard`, with the results as `model-index` in its metadata."""
    from huggingface_hub import ModelCard, ModelCardData

    composite, family = _JOINED.get(facts.family), facts.encoder()
    specialist = SPECIALISTS.get(facts.family)
    families = list(dict.fromkeys([facts.family, *([family.name] if family else [])]))
    data = ModelCardData(
        license=facts.license,
        license_name=facts.license_name,
        license_link=facts.license_link,
        library_name="sclm_hf",
        base_model=facts.base_model,
        base_model_relation=("adapter" if facts.is_adapter else "finetune") if facts.base_model else None,
        tags=[*_TAGS, *families, *(["peft", "lora"] if facts.is_adapter else [])],
        model_name=facts.title,
        eval_results=to_model_index(facts.results, facts.evaluated_method) or None,
        **({"co2_eq_emissions": facts.energy.to_metadata()} if facts.energy else {}),
    )
    usages = specialist.usage if specialist else {}
    examples = [usages.get(facts.task) or get_verb(facts.task).usage] if facts.task else []
    examples += [composite.usage] if composite and composite.usage else []
    usage = (_READING + "\n\n".join(examples)).format(model=facts.model, family=facts.family)
    what = {"family": family, "composite": composite, "specialist": specialist}
    code = code_section(facts.model, specialist or composite) if facts.brings_code else ""
    return ModelCard(render("model_card", card_data=data.to_yaml(), facts=facts, usage=usage, code=code, **what))


def code_section(model: str, record: Family | Composite | Specialist | None = None) -> str:
    """What a card says of code that its folder brings.

    Args:
        model: what users load.
        record: of the model; a family's says nothing in particular.
    """
    kinds = {"specialist": Specialist, "composite": Composite}
    what = {name: record if isinstance(record, kind) else None for name, kind in kinds.items()}
    versions = {"sclm_version": __version__, "transformers_version": version("transformers")}
    return render("code", model=model, **what, **versions).rstrip()


def write_card(facts: CardFacts, folder: str | Path) -> Path:
    """Write `README.md`, `card_facts.json` and, where there are results, `.eval_results/*.yaml` into `folder`.

    Returns:
        The path of `README.md`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    card = render_card(facts)
    facts.save(folder / FACTS_FILE)
    write_evaluation_results(facts.results, facts.evaluated_method, folder)
    write_text(folder / "README.md", str(card))
    return folder / "README.md"
