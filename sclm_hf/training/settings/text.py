"""Whether a language model learns to annotate, and what it reads of a cell."""

import dataclasses
from dataclasses import dataclass

from ...errors import ConfigurationError
from ..arguments import option

SMALL = "small"
"""What `model_name_or_path` says for a new small Llama."""


@dataclass
class TextArguments:
    """Whether a language model learns to annotate, and what it reads of a cell.

    Raises:
        ConfigurationError: other settings are given without `text`, settings exclude each other, or `n_genes` is below
            1.
    """

    text: bool = option(
        False,
        "Fine-tune a language model that answers in text: a folder or repository of a causal or sequence-to-sequence "
        f"model, or `{SMALL}`, for a new small Llama with a token per gene.",
    )
    n_genes: int = option(100, "With `text`: genes of a cell's sentence, the most expressed ones.")
    gene_tokens: bool = option(False, "With `text`: make each gene one token, which is trained too.")
    cell_tokens: str | None = option(
        None,
        "With `text`: read a cell as code words, which are new tokens, instead of the names of its genes: folder or "
        "repository of the model of cells whose embeddings a codebook turns into them. It is kept beside the model. A "
        "codebook that lies in the folder is used; else one is fitted to the cells to train on.",
    )
    n_code_words: int = option(8, "With `cell_tokens` and a new codebook: code words of a cell.")
    codebook_size: int = option(
        64, "With `cell_tokens` and a new codebook: how many different words each of them is chosen from."
    )
    pack_tokens: int = option(
        0,
        "With `text`: train on rows of up to so many tokens that hold several cells, none of which sees another; 0 = "
        "a row per cell.",
    )
    text_config: str | None = option(
        None, f"With `text` and the model `{SMALL}`: fields of its LlamaConfig, a mapping, as JSON."
    )

    def __post_init__(self) -> None:
        if self.n_genes < 1 or self.pack_tokens < 0:
            raise ConfigurationError(
                f"`n_genes` must be at least 1, and `pack_tokens` at least 0, got {self.n_genes} and "
                f"{self.pack_tokens}."
            )
        if not self.text and (changed := [one.name for one in dataclasses.fields(self) if self._is_changed(one)]):
            raise ConfigurationError(f"`{changed[0]}` is for language models: give `text` (`--text`) too.")
        without = ("n_genes", "gene_tokens") if self.cell_tokens else ("n_code_words", "codebook_size")
        if changed := [one.name for one in dataclasses.fields(self) if one.name in without and self._is_changed(one)]:
            what = "leave out" if self.cell_tokens else "give"
            raise ConfigurationError(
                f"`{changed[0]}` is for cells as {'names of genes' if self.cell_tokens else 'code words'}: leave it "
                f"out, or {what} `cell_tokens` (`--cell_tokens`)."
            )

    def _is_changed(self, field: dataclasses.Field) -> bool:
        return getattr(self, field.name) != field.default
