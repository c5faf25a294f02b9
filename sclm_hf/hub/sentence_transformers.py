"""Dual encoders as models of sentence-transformers: cells and texts through one `encode`."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from ..errors import ConfigurationError, require
from ..files import new_folder
from ..opening.dual_encoders import open_dual_encoder
from ..tokenization.encodings.keys import hash_names

if TYPE_CHECKING:
    from anndata import AnnData

    from ..modeling.cell_text_dual_encoder.modeling_cell_text_dual_encoder import CellTextDualEncoderModel
    from ..modeling.cell_text_dual_encoder.processing_cell_text_dual_encoder import CellTextDualEncoderProcessor

sentence_transformers = require("sentence_transformers", extra="text")


class Cell(dict):
    """The counts of a cell by gene, and its name.

    Args:
        counts: gene -> count.
        name: what is random about the cell is keyed by it, as in `embed`.
    """

    def __init__(self, counts: Mapping[str, float], name: str) -> None:
        super().__init__(counts)
        self.name = name


class CellTextModule(sentence_transformers.base.modules.InputModule):
    """The only module of such a model: a text is a string, a cell a mapping from gene to count.

    Args:
        model: the dual encoder.
        processor: its processor.
    """

    def __init__(self, model: "CellTextDualEncoderModel", processor: "CellTextDualEncoderProcessor") -> None:
        super().__init__()
        self.encoder, self.processor = model, processor
        self.tokenizer = processor.tokenizer

    @property
    def modalities(self) -> list[str]:
        """The kinds of input."""
        return ["text", "cell"]

    @property
    def max_seq_length(self) -> int:
        """Most tokens of a text."""
        return self.tokenizer.model_max_length

    def get_embedding_dimension(self) -> int:
        """Width of the shared space."""
        return self.encoder.config.projection_dim

    def preprocess(
        self, inputs: Sequence[str | Mapping[str, float]], prompt: str | None = None, **settings: Any
    ) -> dict[str, Tensor]:
        """The inputs of the dual encoder.

        Args:
            inputs: texts, or cells, as [`cells_of`] gives them; what is random about a cell without a name is keyed by
                its counts.
            prompt: put before each text.

        Raises:
            ConfigurationError: texts and cells are mixed, or an input is neither.
            SclmError: see `CellProcessor.__call__`.
        """
        kinds = {str if isinstance(one, str) else Mapping if isinstance(one, Mapping) else type(one) for one in inputs}
        if kinds == {str}:
            texts = [(prompt or "") + text for text in inputs]
            return {name: torch.from_numpy(one) for name, one in self.processor.encode_texts(texts).items()}
        if kinds != {Mapping}:
            raise ConfigurationError(
                "A batch holds texts (strings) or cells (mappings from gene to count), and no other kinds of input: "
                f"got {sorted(kind.__name__ for kind in kinds)}."
            )
        genes = sorted({gene for cell in inputs for gene in cell})
        places = {gene: place for place, gene in enumerate(genes)}
        rows = np.repeat(np.arange(len(inputs)), [len(cell) for cell in inputs])
        columns = [places[gene] for cell in inputs for gene in cell]
        counts = [float(count) for cell in inputs for count in cell.values()]
        matrix = scipy.sparse.csr_matrix((counts, (rows, columns)), shape=(len(inputs), len(genes)))
        ids = hash_names([_name_of(one) for one in inputs])
        return dict(self.processor.cell_processor(matrix, gene_names=genes, cell_ids=ids, return_tensors="pt"))

    def forward(self, features: dict[str, Tensor], **settings: Any) -> dict[str, Tensor]:
        """The same, with `sentence_embedding` (batch, projection_dim), of length 1."""
        output = self.encoder(**{name: value for name, value in features.items() if torch.is_tensor(value)})
        embedding = output.text_embedding if output.cell_embedding is None else output.cell_embedding
        return features | {"sentence_embedding": embedding}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **settings: Any) -> None:
        """Save the dual encoder as it is: `AutoModel` opens the same folder."""
        self.encoder.save_pretrained(output_path)
        self.processor.save_pretrained(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, revision: str | None = None, **settings: Any) -> "CellTextModule":
        """Open a folder or repository; nothing that it brings is run."""
        loaded, processor = open_dual_encoder(model_name_or_path, revision=revision, device="cpu")
        return cls(loaded.model, processor)


def open_sentence_transformer(name: str | Path, **settings: Any) -> "sentence_transformers.SentenceTransformer":
    """A dual encoder as a model of sentence-transformers, with no need to trust code.

    Args:
        name: folder or repository of a dual encoder, exported or not.
        **settings: of `SentenceTransformer`, such as `device`.

    Raises:
        CheckpointError: it cannot be read, or is no dual encoder.
    """
    return sentence_transformers.SentenceTransformer(
        modules=[CellTextModule.load(str(name))], similarity_fn_name="cosine", **settings
    )


def export_sentence_transformer(model: str | Path, output: str | Path) -> Path:
    """Write a folder that `SentenceTransformer(folder, trust_remote_code=True)` opens where this package is installed.

    The flag lets sentence-transformers import the class from this package; the folder holds no code. AutoModel opens
    the same folder, and so does [`open_sentence_transformer`], without the flag.

    Args:
        model: folder or repository of a dual encoder.
        output: folder to write; it must be empty or not exist.

    Raises:
        CheckpointError: the model cannot be read, or is no dual encoder.
        ConfigurationError: something is at `output` already.
    """
    exported = open_sentence_transformer(model, device="cpu")
    with new_folder(Path(output)) as unfinished:
        exported.save(str(unfinished), create_model_card=False)
    return Path(output)


def _name_of(cell: Mapping[str, float]) -> str:
    return getattr(cell, "name", None) or json.dumps(sorted((gene, float(count)) for gene, count in cell.items()))


def cells_of(adata: "AnnData", layer: str | None = None) -> Iterator[Cell]:
    """The cells of an AnnData, as `encode` takes them.

    Args:
        adata: cells with raw counts.
        layer: the layer that holds them; `X` by default.
    """
    matrix = scipy.sparse.csr_matrix(adata.X if layer is None else adata.layers[layer])
    names = np.asarray(adata.var_names, dtype=object)
    for row, name in zip(matrix, adata.obs_names, strict=True):
        yield Cell(dict(zip(names[row.indices].tolist(), row.data.tolist(), strict=True)), str(name))
