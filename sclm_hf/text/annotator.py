"""A language model with a closed set of labels, as a classifier of cells: saved, opened, run."""

import copy
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from ..errors import CheckpointError, ConfigurationError, HubError
from ..opening.files import ADAPTER_CONFIG, find_file
from ..opening.language_models import open_language_model
from ..opening.loading import LoadedModel, as_dtype
from ..opening.processors import load_processor
from ..tokenization.processing_cell import CellProcessor
from .candidates import CandidateScorer
from .cell_words import CellWords
from .closed_set import (
    CANDIDATES_FILE,
    CELLS_FOLDER,
    Candidates,
    answers_of,
    is_language_model,
    loaded_annotator,
    read_candidates,
)
from .code_words import CodeWords
from .decision import save_decision
from .neutral import neutralise
from .templates import Template, checked_template

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_CHUNK = 64
"""Prompts of a sample that are read at a time, unless memory runs out."""


@dataclasses.dataclass(frozen=True)
class TextProcessor:
    """What a language model needs to label cells.

    Attributes:
        tokenizer: of the language model.
        cells: encodes cells; for names of genes it ranks them.
        candidates: the question and the labels.
        codes: writes the cells that the processor encodes as code words; None where they are the names of genes.
    """

    tokenizer: "PreTrainedTokenizerBase"
    cells: CellProcessor
    candidates: Candidates
    codes: CodeWords | None = None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything beside a model."""
        self.tokenizer.save_pretrained(folder)
        (self.codes or self.cells).save_pretrained(Path(folder) / CELLS_FOLDER)
        self.save_candidates(self.candidates, folder)

    def save_candidates(self, candidates: Candidates, folder: str | Path) -> None:
        """Write question and labels beside a model, for `annotate` and for `pipeline("decision")`."""
        candidates.save(folder)
        save_decision(folder, self.tokenizer, candidates)


class TextAnnotator(nn.Module):
    """A language model that gives a logit for each label: its log-likelihood per token, over the temperature.

    Args:
        model: the language model.
        processor: the rest.
    """

    def __init__(self, model: "PreTrainedModel", processor: TextProcessor) -> None:
        super().__init__()
        self.model, self.processor = model, processor
        tokenizer, candidates = processor.tokenizer, processor.candidates
        self.config = copy.deepcopy(model.config)
        self.config.id2label = dict(enumerate(candidates.labels))
        self.config.label2id = {label: number for number, label in enumerate(candidates.labels)}
        self.config.chunk_size = _CHUNK
        # what answers depend on is in the record of a model
        self.config.candidates = dataclasses.asdict(candidates)
        self._scorer = CandidateScorer(model, tokenizer)
        self._words = processor.codes or CellWords(processor.cells, tokenizer)
        if processor.codes is not None:
            processor.codes.check_tokenizer(tokenizer)
        self._template = checked_template(Template("the prompt", candidates.prompt, ""))
        if "{sentence}" not in candidates.prompt:
            raise ConfigurationError(
                f"The question shows no cell: `prompt` must hold {{sentence}}, in `{CANDIDATES_FILE}`."
            )
        self._answers = answers_of(candidates.labels, tokenizer)
        self._organism = neutralise(candidates.organism, tokenizer)

    @property
    def cell_processor(self) -> CellProcessor:
        """What encodes the cells."""
        return self.processor.cells

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.model.dtype

    def frozen_tables(self) -> dict[str, torch.Tensor]:
        """Tensors besides those of the language model: of the encoder of cells and of its codebook, if any."""
        codes = self.processor.codes
        if codes is None:
            return {}
        encoder = {f"cells.{name}": tensor for name, tensor in codes.encoder.state_dict().items()}
        return encoder | {"codebook": torch.from_numpy(codes.codebook.centroids)}

    def prompts(self, batch: dict[str, torch.Tensor]) -> list[list[dict[str, str]]]:
        """The questions about the cells of a batch, as messages."""
        system = self.processor.candidates.system
        before = [] if system is None else [{"role": "system", "content": system}]
        return [
            [*before, {"role": "user", "content": self._asked(sentence)}] for sentence in self._words.sentences(batch)
        ]

    def forward(self, **batch: torch.Tensor) -> SequenceClassifierOutput:
        """`logits` (cells, labels) of encoded cells."""
        prompts = self.prompts(batch)
        # a sample is embedded whole, however large it is
        size = self.config.chunk_size if self.processor.cells.context == "sample" else len(prompts)
        scores = [
            self._scorer.log_likelihoods(prompts[start : start + size], self._answers)
            for start in range(0, len(prompts), size)
        ]
        return SequenceClassifierOutput(logits=torch.cat(scores) / self.processor.candidates.temperature)

    def _asked(self, sentence: str) -> str:
        return self._template.render_prompt(
            sentence=sentence, organism=self._organism, n_genes=sentence.count(" ") + 1
        )


def is_text_annotator(model: Any, revision: Any = None) -> bool:
    """Whether a folder or repository holds a language model with candidates, or is one in memory."""
    return isinstance(model, TextAnnotator) or is_language_model(model, revision)


def load_text_annotator(
    model: Any,
    *,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    revision: str | None = None,
) -> LoadedModel:
    """A language model with candidates, ready to run; nothing that it brings is executed.

    Args:
        model: folder or repository; or a [`TextAnnotator`].
        device: where to run; by default CUDA, else MPS, else CPU.
        dtype: of the weights; float32 by default.
        revision: branch, tag or commit on the Hub.

    Raises:
        CheckpointError: it cannot be read, is an adapter, or its weights are not finite.
        HubError: the Hub cannot be reached.
    """
    return loaded_annotator(model, TextAnnotator, functools.partial(_open, dtype), device, revision)


def _open(dtype: "str | torch.dtype | None", name: str, revision: Any) -> TextAnnotator:
    if find_file(name, ADAPTER_CONFIG, revision) is not None:
        raise CheckpointError(
            f"`{name}` is an adapter of a language model: annotate with the folder of the merged model, which "
            "`sclm-hf finetune --text` writes around it."
        )
    candidates = read_candidates(find_file(name, CANDIDATES_FILE, revision))
    folder = _folder(name, revision) / CELLS_FOLDER
    cells = load_processor(str(folder))
    # weights beside the processor are those of an encoder
    codes = CodeWords.load(folder) if (folder / "config.json").exists() else None
    language_model, tokenizer = open_language_model(name, dtype=as_dtype(dtype), revision=revision)
    return TextAnnotator(language_model, TextProcessor(tokenizer, cells, candidates, codes))


def _folder(name: str, revision: Any) -> Path:
    """The folder of a checkpoint; of one on the Hub, the cached one with the processor of its cells."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=f"{CELLS_FOLDER}/*"))
    # the errors of the connection have no base of their own
    except Exception as error:
        raise HubError(
            f"The processor of `{name}` could not be fetched ({error}): check the connection, or download it."
        ) from error
