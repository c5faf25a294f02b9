"""Language models that answer freely about cells, which they read as sentences or as soft tokens."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import CheckpointError, ConfigurationError
from ..logging import quiet_transformers
from ..modeling.cell_text.configuration_cell_text import CellTextConfig
from ..modeling.cell_text.processing_cell_text import CELL_TOKEN, CellTextProcessor
from ..opening.families import read_config
from ..opening.files import ADAPTER_CONFIG, find_file
from ..opening.language_models import open_language_model
from ..opening.loading import as_dtype, check_device, default_device
from ..registry import COMPOSITES, FAMILIES
from ..sources.cell_source import CellSource
from ..tokenization.processing_cell import CellProcessor
from .annotator import is_text_annotator, load_text_annotator
from .cell_text_annotator import is_cell_text_annotator, load_cell_text_annotator, open_cell_text_model
from .cell_words import CellWords, sentence_processor
from .code_words import CodeWords
from .neutral import neutralise
from .rendering import Messages, context_size, padding_id, prompt_ids
from .retrieval import Document, evidence_prompt, with_evidence

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

N_GENES = 100
"""Genes of a sentence for a model that does not say how many it reads."""


class ChatModel(ABC):
    """A language model, and how it reads cells.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        cells: encodes cells.
        labels: the answers that it was trained to give, as it writes them; empty where it was trained for none.

    Raises:
        ConfigurationError: the tokenizer has neither a token for padding nor one that ends texts.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        cells: CellProcessor,
        labels: Sequence[str] = (),
    ) -> None:
        self.model, self.tokenizer, self.cells, self.labels = model, tokenizer, cells, list(labels)
        self.context_size = context_size(model.config)
        self._fill = padding_id(tokenizer)

    @abstractmethod
    def shown(self, source: CellSource, rows: np.ndarray, seed: int) -> list[str]:
        """(cells,) what stands for cells in a message."""

    @abstractmethod
    def introduced(self, shown: Sequence[str], called: Sequence[str], organism: str) -> str:
        """What precedes a question: the cells.

        Args:
            shown: (cells,) what stands for them.
            called: (cells,) what they are called; not said of a single one.
            organism: the species.
        """

    def inputs(self, source: CellSource, rows: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        """What the model reads of the cells of a prompt besides its tokens."""
        return {}

    def prompt_ids(self, messages: Messages, documents: Sequence[Document]) -> list[int]:
        """The tokens of a conversation with its evidence, ready for the answer."""
        if self.tokenizer.chat_template is None:
            return prompt_ids(self.tokenizer, [with_evidence(messages, documents, self.tokenizer)])[0]
        text = evidence_prompt(self.tokenizer, messages, documents)
        return self.tokenizer(self._expanded(text), add_special_tokens=False)["input_ids"]

    def generate(
        self, ids: Sequence[int], inputs: Mapping[str, torch.Tensor], *, n_tokens: int, temperature: float, seed: int
    ) -> str:
        """What the model writes after a prompt.

        Args:
            ids: the tokens of the prompt.
            inputs: see [`inputs`].
            n_tokens: it writes at most so many.
            temperature: 0 takes the most likely token each time, else tokens are drawn.
            seed: seed of the draws.
        """
        device = self.model.device
        given = torch.tensor([list(ids)], device=device)
        config = self._generation(n_tokens, temperature)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            with torch.inference_mode(), quiet_transformers():
                written = self.model.generate(
                    input_ids=given,
                    attention_mask=torch.ones_like(given),
                    generation_config=config,
                    **{name: values.to(device) for name, values in inputs.items()},
                )[0]
        answer = written if self.model.config.is_encoder_decoder else written[len(ids) :]
        return self.tokenizer.decode(answer, skip_special_tokens=True).strip()

    def encoded(self, source: CellSource, rows: np.ndarray, seed: int, **settings: Any) -> dict[str, np.ndarray]:
        """The arrays of cells, which may be named twice."""
        different, places = np.unique(rows, return_inverse=True)
        names, ensembl_ids = source.genes()
        matrix, ids = source.read(different)[places], source.cell_ids(different)[places]
        return dict(self.cells(matrix, gene_names=names, ensembl_ids=ensembl_ids, cell_ids=ids, seed=seed, **settings))

    def _expanded(self, text: str) -> str:
        return text

    def _generation(self, n_tokens: int, temperature: float) -> Any:
        """The model's own settings of generation, with what was asked for."""
        config = copy.deepcopy(self.model.generation_config)
        draws = {"temperature": temperature} if temperature > 0 else dict.fromkeys(("temperature", "top_p", "top_k"))
        ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        ends = sorted({one for one in (*ends, self.tokenizer.eos_token_id) if one is not None})
        config.update(
            max_new_tokens=n_tokens,
            max_length=None,
            do_sample=temperature > 0,
            num_beams=1,
            pad_token_id=self._fill,
            eos_token_id=ends or None,
            **draws,
        )
        return config


class SentenceModel(ChatModel):
    """A language model that reads cells as the words of their most expressed genes.

    Args:
        model, tokenizer, cells, labels: as for [`ChatModel`].
        species: of the cells, as for `CellProcessor.map_genes`.
        n_genes: genes of a sentence; None = as many as `cells` keeps.
    """

    def __init__(self, model, tokenizer, cells, labels=(), *, species: str | None, n_genes: int | None) -> None:
        super().__init__(model, tokenizer, cells, labels)
        self._words = CellWords(cells, tokenizer)
        self._settings = {"species": species, "max_length": n_genes}

    def shown(self, source: CellSource, rows: np.ndarray, seed: int) -> list[str]:
        return self._words.sentences(self.encoded(source, rows, seed, **self._settings))

    def introduced(self, shown: Sequence[str], called: Sequence[str], organism: str) -> str:
        # the first wording that `finetune --text` trains with, and `annotate` asks
        if len(shown) == 1:
            n_genes = shown[0].count(" ") + 1
            return f"Below are the {n_genes} most expressed genes of a {organism} cell, highest first.\n{shown[0]}\n"
        lines = [f"{name}: {sentence}\n" for name, sentence in zip(called, shown, strict=True)]
        return f"Below are the most expressed genes of {len(shown)} {organism} cells, highest first.\n{''.join(lines)}"


class CodeWordModel(ChatModel):
    """A language model that reads cells as code words.

    Args:
        model, tokenizer, labels: as for [`ChatModel`].
        codes: writes cells as code words.
        species: of the cells, as for `CellProcessor.map_genes`.
    """

    def __init__(self, model, tokenizer, codes: CodeWords, labels=(), *, species: str | None) -> None:
        super().__init__(model, tokenizer, codes.processor, labels)
        self._codes, self._species = codes, species

    def shown(self, source: CellSource, rows: np.ndarray, seed: int) -> list[str]:
        return self._codes.sentences(self.encoded(source, rows, seed, species=self._species))

    def introduced(self, shown: Sequence[str], called: Sequence[str], organism: str) -> str:
        # the first wording that `finetune --text --cell_tokens` trains with, and `annotate` asks
        if len(shown) == 1:
            return f"Below is a {organism} cell.\n{shown[0]}\n"
        lines = [f"{name}: {sentence}\n" for name, sentence in zip(called, shown, strict=True)]
        return f"Below are {len(shown)} {organism} cells.\n{''.join(lines)}"


class SoftTokenModel(ChatModel):
    """A language model that reads cells as soft tokens.

    Args:
        model: the cell-text model.
        processor: its processor.
        labels: as for [`ChatModel`].
        species: of the cells, as for `CellProcessor.map_genes`.
    """

    def __init__(self, model, processor: CellTextProcessor, labels=(), *, species: str | None) -> None:
        super().__init__(model, processor.tokenizer, processor.cell_processor, labels)
        self._processor, self._species = processor, species
        self.tokenizer.chat_template = processor.chat_template

    def shown(self, source: CellSource, rows: np.ndarray, seed: int) -> list[str]:
        return [CELL_TOKEN] * len(rows)

    def introduced(self, shown: Sequence[str], called: Sequence[str], organism: str) -> str:
        if len(shown) == 1:
            return f"{shown[0]} "
        return "".join(f"{name}: {cell}\n" for name, cell in zip(called, shown, strict=True))

    def inputs(self, source: CellSource, rows: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        arrays = self.encoded(source, rows, seed, species=self._species)
        arranged = self._processor.arranged(arrays, np.array([len(rows)]))
        return {name: torch.from_numpy(values) for name, values in arranged.items()}

    def _expanded(self, text: str) -> str:
        return text.replace(CELL_TOKEN, CELL_TOKEN * self._processor.num_cell_tokens)


def open_chat_model(
    model: Any,
    genes: Sequence[str],
    *,
    species: str | None = None,
    n_genes: int | None = None,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    revision: str | None = None,
) -> ChatModel:
    """A language model that answers about cells; nothing that it brings is executed.

    Args:
        model: folder or repository of a model that `finetune --text` or `finetune --cell_model` trained, of a
            cell-text model, or of any language model, which then reads the names of genes as they are.
        genes: the genes of the cells.
        species: as for `CellProcessor.map_genes`.
        n_genes: genes of a sentence; by default what the model was trained with, else [`N_GENES`].
        device, dtype, revision: as for `load_text_annotator`.

    Raises:
        CheckpointError: it cannot be read, or does not answer in text.
        ConfigurationError: `n_genes` is given for a model that reads no sentences.
    """
    check_device(device)
    if n_genes is not None and n_genes < 1:
        raise ConfigurationError(f"`n_genes` (`--n-genes`) must be at least 1, got {n_genes}.")
    opening = {"dtype": dtype, "revision": revision}
    if is_text_annotator(model, revision):
        annotator = load_text_annotator(model, device=device, **opening).model
        processor = annotator.processor
        labels = [neutralise(label, processor.tokenizer) for label in processor.candidates.labels]
        if processor.codes is not None:
            _refuse_n_genes(n_genes, "code words")
            return CodeWordModel(annotator.model, processor.tokenizer, processor.codes, labels, species=species)
        return SentenceModel(
            annotator.model, processor.tokenizer, processor.cells, labels, species=species, n_genes=n_genes
        )
    if is_cell_text_annotator(model, revision):
        annotator = load_cell_text_annotator(model, device=device, **opening).model
        labels = [neutralise(label, annotator.processor.tokenizer) for label in annotator.candidates.labels]
        return _soft(annotator.model, annotator.processor, labels, species, n_genes)
    name, device = str(model), device or default_device()
    kind = read_config(name, revision).get("model_type")
    if kind == CellTextConfig.model_type:
        found, processor = open_cell_text_model(name, dtype=dtype, revision=revision)
        return _soft(found.to(device).eval(), processor, [], species, n_genes)
    if kind in FAMILIES or kind in COMPOSITES:
        raise CheckpointError(
            f"`{name}` is a model of the kind `{kind}`, which does not write: give a language model, or join both by "
            "`sclm-hf finetune --cell_model`."
        )
    if find_file(name, ADAPTER_CONFIG, revision) is not None:
        raise CheckpointError(f"`{name}` is an adapter of a language model: give the folder of the merged model.")
    language_model, tokenizer = open_language_model(name, dtype=as_dtype(dtype), revision=revision)
    cells = sentence_processor(genes, n_genes or N_GENES)
    return SentenceModel(language_model.to(device), tokenizer, cells, species=species, n_genes=None)


def _soft(model, processor, labels, species: str | None, n_genes: int | None) -> SoftTokenModel:
    _refuse_n_genes(n_genes, "soft tokens")
    return SoftTokenModel(model, processor, labels, species=species)


def _refuse_n_genes(n_genes: int | None, reads: str) -> None:
    if n_genes is not None:
        raise ConfigurationError(f"`n_genes` (`--n-genes`) is for sentences: this model reads cells as {reads}.")
