"""The record of a task-specific model."""

from dataclasses import dataclass, field

from ..family import ModelFolder


@dataclass(frozen=True)
class Specialist(ModelFolder):
    """What the package knows about one task-specific system.

    It is trained for one task on the cells of one study, from nothing; no weights were published.

    Attributes:
        name: the `model_type`, and the folder below `specialists/`.
        title: the name as the paper writes it.
        paper: authors, title, journal, year and DOI.
        repository: where the authors keep the original.
        code_license: licence of the original code.
        task: what it answers, in a few words.
        reads: what it is trained on, as a sentence.
        verbs: verb that takes its folder -> the settings of that verb which mean something for it.
        usage: verb -> Python that shows its use in a card, with `{model}` where the folder or repository goes; of a
            verb that is not named here, the one that it has for all models.
        config: name of the configuration class.
        auto_classes: transformers Auto class -> our class; the first opens what `fit` trains.
        models: every public model class.
        processor: the class that makes its input.
        recipe: the published training, as settings of `TrainingConfig`.
        recipe_note: in which way the published training differs from these, as a sentence.
        lora_target_modules: the linear layers that LoRA adapts unless told otherwise; without any, a LoRA is refused.
        classification_head: modules trained in full beside a LoRA for classification.
        trained_in_full: other modules trained in full beside a LoRA.
        directed: whether an edge of its networks from one gene to another may differ from the one back.
        also_needs: packages that its processor needs beside those of a model that brings its code.
        transductive: whether it answers only for the cells that it was trained on.
        source_layout: what `sclm-hf convert` takes, as the end of a sentence.
        tiny: configuration of a model small enough for tests.
    """

    name: str
    title: str
    paper: str
    repository: str
    code_license: str
    task: str
    reads: str
    verbs: dict[str, tuple[str, ...]]
    config: str
    auto_classes: dict[str, str]
    models: tuple[str, ...]
    processor: str
    recipe: dict[str, object]
    recipe_note: str = ""
    usage: dict[str, str] = field(default_factory=dict)
    lora_target_modules: tuple[str, ...] = ()
    key_value_modules: tuple[str, ...] = ()
    feedforward_modules: tuple[str, ...] = ()
    norm_modules: tuple[str, ...] = ()
    classification_head: tuple[str, ...] = ("classifier",)
    trained_in_full: tuple[str, ...] = ()
    directed: bool = True
    also_needs: tuple[str, ...] = ()
    transductive: bool = False
    source_layout: str = "a folder with `config.json` and `model.safetensors`, whose tensors have the original's names"
    tiny: dict[str, object] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return f"sclm_hf.specialists.{self.name}"

    @property
    def processor_module(self) -> str:
        return f"{self.package}.processing_{self.name}"

    @property
    def conversion_module(self) -> str:
        return f"{self.package}.convert_{self.name}"
