"""Cell types that are given as texts: zero-shot annotation with a dual encoder of cells and text."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...corpora.labels.cell_ontology import definitions
from ...corpora.labels.ontology import simplified
from ...errors import ConfigurationError, require
from ...modeling.cell_text_dual_encoder.modeling_cell_text_dual_encoder import (
    CellTextDualEncoderModel,
    Tokens,
    cell_tokens,
)
from ...modeling.cell_text_dual_encoder.processing_cell_text_dual_encoder import CellTextDualEncoderProcessor
from ...modeling.common.outputs import CellClassifierOutput
from ...opening.dual_encoders import open_dual_encoder
from ...opening.loading import LoadedModel

Labels = str | Path | Mapping[str, str | Sequence[str]] | Sequence[str]


def read_descriptions(labels: Labels) -> dict[str, list[str]]:
    """The texts of each label.

    Args:
        labels: label -> its text, or several; names that the Cell Ontology knows, whose definitions are taken; or a
            file with either: a JSON mapping, or a CSV table with a column `label` and, unless definitions are to be
            taken, a column `text` (a label may have several rows).

    Raises:
        ConfigurationError: there are fewer than two labels, one has no text, or a file cannot be read.
        MissingDependencyError: definitions are asked for, and the package that holds them is not installed.
    """
    given = _read_file(Path(labels)) if isinstance(labels, (str, Path)) else labels
    found = dict(given) if isinstance(given, Mapping) else _definitions(list(given))
    texts = {str(name): [one] if isinstance(one, str) else list(one) for name, one in found.items()}
    if len(texts) < 2:
        raise ConfigurationError(f"`labels` (`--labels`) must hold two cell types or more, got {list(texts)}.")
    for name, several in texts.items():
        if not several or not all(isinstance(text, str) and text.strip() for text in several):
            raise ConfigurationError(f"The label {name!r} has no text, or an empty one: describe it in `labels`.")
    return texts


def _read_file(path: Path) -> Any:
    pandas = require("pandas", extra="anndata")
    try:
        if path.suffix == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, (dict, list)):
                raise ValueError("it holds neither a mapping nor a list")
            return content
        table = pandas.read_csv(path, dtype=str, keep_default_na=False)
        if "label" not in table:
            raise ValueError(f"it has no column `label`, only {list(table.columns)}")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"`labels` (`--labels`) must be a CSV table with the columns `label` and `text`, or a JSON mapping; "
            f"`{path}` cannot be read: {error}."
        ) from error
    if "text" not in table:
        return table["label"].tolist()
    return {name: rows["text"].tolist() for name, rows in table.groupby("label", sort=False)}


def _definitions(names: Sequence[str]) -> dict[str, str]:
    """Name -> name and definition of the term of the Cell Ontology that is called so."""
    known = {simplified(name): term for term in reversed(definitions()) for name in reversed(term.names)}
    # a name of its own wins over a synonym of another
    known |= {simplified(term.label): term for term in definitions()}
    if unknown := [name for name in names if simplified(name) not in known]:
        raise ConfigurationError(
            f"The Cell Ontology has no definition of {unknown[:10]}: give `labels` as a mapping from name to text "
            "(`--labels FILE.csv` with the columns `label` and `text`)."
        )
    terms = {name: known[simplified(name)] for name in names}
    return {name: f"{term.label}: {term.text}" for name, term in terms.items()}


class DescribedTypes(nn.Module):
    """A dual encoder that labels cells by the text that fits best.

    Args:
        model: the dual encoder.
        processor: its processor.
        texts: label -> texts; the direction of a label is the mean of theirs.
    """

    def __init__(
        self,
        model: CellTextDualEncoderModel,
        processor: CellTextDualEncoderProcessor,
        texts: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__()
        self.encoder = model.eval()
        self.config = copy.deepcopy(model.config)
        self.config.id2label = dict(enumerate(texts))
        self.config.label2id = {name: number for number, name in enumerate(texts)}
        every = [text for several in texts.values() for text in several]
        shares = [torch.full((1, len(several)), 1 / len(several)) for several in texts.values()]
        self.register_buffer("shares", torch.block_diag(*shares))
        self.to(model.device)
        with torch.inference_mode():
            batch = {name: torch.from_numpy(one) for name, one in processor.encode_texts(every).items()}
            features = model.get_text_features(**{name: one.to(model.device) for name, one in batch.items()})
            directions = F.normalize(self.shares.to(features.pooler_output.dtype) @ features.pooler_output, dim=-1)
        self.register_buffer("directions", directions.clone())
        self.register_buffer("words", features.last_hidden_state.clone())
        self.register_buffer("word_mask", batch["text_attention_mask"].to(model.device))

    @property
    def device(self) -> torch.device:
        return self.encoder.device

    @property
    def dtype(self) -> torch.dtype:
        return self.encoder.dtype

    def frozen_tables(self) -> dict[str, Tensor]:
        return {}

    def forward(self, **cells: Tensor) -> CellClassifierOutput:
        """The logits of the labels, (cells, labels): with a matching head, logarithms of LangCell's mixture."""
        features = self.encoder.get_cell_features(**cells)
        logits = self.encoder.similarities(features.pooler_output, self.directions)
        if self.encoder.matching_head is not None:
            pairs = self.encoder.match_logits(
                cell_tokens(features, cells.get("attention_mask")), Tokens(self.words, self.word_mask.bool())
            )
            matches = pairs.sigmoid() @ self.shares.T.float()
            share = self.config.similarity_weight
            logits = (share * logits.softmax(dim=1) + (1 - share) * matches.softmax(dim=1)).log()
        return CellClassifierOutput(logits=logits, cell_embedding=features.pooler_output)


def load_described(
    model: Any,
    labels: Labels,
    processor: CellTextDualEncoderProcessor | None = None,
    *,
    device: Any = None,
    dtype: Any = None,
    revision: str | None = None,
) -> LoadedModel:
    """A dual encoder that labels cells by texts; arguments and errors as for [`open_dual_encoder`], and:

    Args:
        labels: see [`read_descriptions`].
    """
    texts = read_descriptions(labels)
    loaded, whole = open_dual_encoder(model, processor, device=device, dtype=dtype, revision=revision)
    described = DescribedTypes(loaded.model, whole, texts)
    return LoadedModel(described, loaded.processor, loaded.name, loaded.revision)


def load_queries(
    model: Any, queries: Sequence[str], processor: CellTextDualEncoderProcessor | None = None, **options: Any
) -> LoadedModel:
    """A dual encoder that knows what is looked for; arguments and errors as for [`load_described`]."""
    loaded, whole = open_dual_encoder(model, processor, **options)
    described = DescribedTypes(loaded.model, whole, {text: [text] for text in queries})
    return LoadedModel(described, loaded.processor, loaded.name, loaded.revision)
