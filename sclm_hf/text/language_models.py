"""Language models that read cells: opened, made anew with a token per gene, or given tokens for genes."""

import string
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Sequence as Steps
from tokenizers.pre_tokenizers import Split
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ..errors import ConfigurationError
from .codebook import Codebook
from .templates import load_templates

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
END = "<|end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|> ' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + ' <|end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + ' <|end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)

SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
"""A Llama that learns on a CPU within minutes."""


def small_language_model(
    genes: Iterable[str],
    labels: Iterable[str],
    *,
    tasks: Sequence[str] = ("annotate",),
    other_words: Iterable[str] = (),
    seed: int = 0,
    **config: Any,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A small Llama with random weights; each gene, each label and each word of the wordings is one token.

    Args:
        genes: words of genes, as sentences write them.
        labels: the answers.
        tasks: the tasks whose wordings it reads.
        other_words: what fills slots besides, such as the organism.
        seed: seed of the weights.
        **config: changes to [`SMALL`], fields of `LlamaConfig`.
    """
    tokenizer = word_tokenizer(genes, labels, tasks=tasks, other_words=other_words)
    ids = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(**{"vocab_size": len(tokenizer), "tie_word_embeddings": True, **ids, **SMALL, **config})
        )
    return model.eval(), tokenizer


def word_tokenizer(
    genes: Iterable[str],
    labels: Iterable[str],
    *,
    tasks: Sequence[str] = ("annotate",),
    other_words: Iterable[str] = (),
) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are words; arguments as for [`small_language_model`]."""
    special = ["<pad>", "<unk>", *ROLES, END]
    digits = [str(number) for number in range(1, 101)]
    words = [
        *_template_words(tasks),
        *digits,
        *other_words,
        *(word for label in labels for word in label.split()),
        *genes,
    ]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Steps(
        [Split(Regex(r"\s+"), "removed"), Split(Regex(r"^[(\"]|[)\",.:;?!](?=[)\",.:;?!]*$)"), "isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token=END,
        extra_special_tokens=list(ROLES),
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.add_tokens([AddedToken(label, single_word=True, normalized=False) for label in sorted(set(labels))])
    return tokenizer


def _template_words(tasks: Sequence[str]) -> list[str]:
    """The words of wordings, punctuation at their ends apart."""
    words = [*'(")",.:;?!']
    for task in tasks:
        for template in load_templates(task).choose("all"):
            for text, *_ in string.Formatter().parse(f"{template.prompt}\n{template.answer}"):
                words += [word.strip('("),.:;?!') for word in text.split()]
    return [word for word in words if word]


def add_gene_tokens(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", genes: Sequence[str]) -> list[int]:
    """Make each gene one token; its embedding starts from the mean of the tokens that it was written with.

    Args:
        model: a language model; its embeddings grow in place.
        tokenizer: its tokenizer, changed in place.
        genes: words of genes, as sentences write them.

    Returns:
        The ids of the tokens that are new, to be trained.

    Raises:
        ConfigurationError: a gene holds white space.
    """
    if broken := [gene for gene in genes if gene.split() != [gene]]:
        raise ConfigurationError(f"A gene is one word, got {broken[0]!r}.")
    known = tokenizer.get_vocab()
    new = [gene for gene in dict.fromkeys(genes) if gene not in known]
    pieces = tokenizer([f" {gene}" for gene in new], add_special_tokens=False)["input_ids"] if new else []
    ids = _add_words(model, tokenizer, new)
    with torch.no_grad():
        for embeddings in _embeddings(model):
            for token, written in zip(ids, pieces, strict=True):
                embeddings[token] = embeddings[written].mean(dim=0)
    return ids


def add_cell_tokens(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", codebook: Codebook, *, seed: int = 0
) -> list[int]:
    """Make each word of a codebook one token.

    Its embedding starts from a random direction of its level plus a random projection of its centroid, scaled like the
    embeddings of all other tokens: codes that are near each other mean nearly the same to the model from the start,
    the words of later levels differ by as little as they tell, and the sum of a cell's words is the projection of what
    they stand for.

    Args:
        model: a language model; its embeddings grow in place.
        tokenizer: its tokenizer, changed in place.
        codebook: the codebook.
        seed: seed of directions and projection.

    Returns:
        The ids of the tokens that are new, to be trained; words that are tokens already stay as they are.
    """
    known = tokenizer.get_vocab()
    are_new = np.array([word not in known for word in codebook.words])
    ids = _add_words(model, tokenizer, [word for word, is_new in zip(codebook.words, are_new, strict=True) if is_new])
    centroids = codebook.centroids - codebook.centroids.mean(axis=1, keepdims=True)
    # one scale for all levels, so that late ones, which tell little, say little
    scale = np.sqrt((centroids[0] ** 2).sum(axis=1).mean())
    told = (centroids / np.maximum(scale, np.finfo(np.float32).tiny)).reshape(-1, codebook.size)[are_new]
    levels = np.repeat(np.arange(len(centroids)), centroids.shape[1])[are_new]
    with torch.no_grad():
        for embeddings in _embeddings(model):
            generator, width = np.random.default_rng(seed), embeddings.shape[1]
            projection = generator.normal(size=(codebook.size, width))
            # else models that scale embeddings to one length would hear late levels as loudly as early ones
            directions = generator.normal(size=(len(centroids), width))
            others = torch.ones(len(embeddings), dtype=torch.bool)
            others[[*ids, *range(len(tokenizer), len(others))]] = False
            centre, spread = embeddings[others].float().mean(dim=0), embeddings[others].float().std(dim=0)
            started = torch.from_numpy(directions[levels] + told @ projection)
            embeddings[ids] = (centre + started * spread).to(embeddings)
    return ids


def _add_words(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", words: Sequence[str]) -> list[int]:
    """Make each of some words a token, and make room for its embedding; returns the ids."""
    tokenizer.add_tokens([AddedToken(word, single_word=True, lstrip=True, normalized=False) for word in words])
    # mean_resizing draws from the distribution of all embeddings, which takes minutes and is overwritten
    model.resize_token_embeddings(
        max(len(tokenizer), model.get_input_embeddings().num_embeddings), mean_resizing=False
    )
    return tokenizer.convert_tokens_to_ids(list(words))


def _embeddings(model: "PreTrainedModel") -> list[torch.Tensor]:
    """The weights of the input and, unless it is the same, of the output embeddings."""
    weights = [model.get_input_embeddings().weight]
    output = model.get_output_embeddings()
    if output is not None and output.weight is not weights[0]:
        weights.append(output.weight)
    return weights
