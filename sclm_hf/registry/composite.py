"""The record of a model that joins a model of one of the families with a language model of transformers."""

from dataclasses import dataclass

from .family import ModelFolder


@dataclass(frozen=True)
class Composite(ModelFolder):
    """What the package knows about one kind of model of cells and text.

    Attributes:
        name: the `model_type`, the folder below `modeling/` and the suffix of `obsm["X_<name>"]`.
        title: the name for people.
        paper: where its design was published.
        config: name of the configuration class.
        auto_classes: transformers Auto class -> our class.
        models: every public model class.
        processor: the class of its processor, of cells and of text.
        verbs: what a model of it can do, as functions and commands.
        instead_of_heads: how to do what a head would do that it does not have, as a sentence.
        without_us: how its code alone is used, as a sentence of a card.
        usage: Python that shows what no verb does, with `{model}` where the folder or repository goes.
    """

    name: str
    title: str
    paper: str
    config: str
    auto_classes: dict[str, str]
    models: tuple[str, ...]
    processor: str
    verbs: tuple[str, ...]
    instead_of_heads: str = ""
    without_us: str = ""
    usage: str = ""

    @property
    def processor_module(self) -> str:
        return f"{self.package}.processing_{self.name}"
