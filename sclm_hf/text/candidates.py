"""Answers by probability: how likely each of a closed set of answers is to a language model."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import ConfigurationError
from .rendering import Messages, answer_ids, context_size, padding_id, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class _Tree:
    """Answers as paths from the prompt; what several begin with is one path.

    Attributes:
        tokens: token of each node, the parents before their children.
        parents: node before each; -1 is the prompt.
        paths: the nodes of each answer.
    """

    tokens: list[int]
    parents: list[int]
    paths: list[list[int]]

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> "_Tree":
        tokens, parents, paths, nodes = [], [], [], {}
        for answer in answers:
            path = []
            for token in answer:
                parent = path[-1] if path else -1
                if (parent, token) not in nodes:
                    nodes[parent, token] = len(tokens)
                    tokens.append(token)
                    parents.append(parent)
                path.append(nodes[parent, token])
            paths.append(path)
        return cls(tokens, parents, paths)

    @property
    def inner(self) -> list[int]:
        """The nodes that something follows: what the model must read."""
        return sorted(set(self.parents) - {-1})


class CandidateScorer:
    """Log-likelihoods of answers, each divided by its number of tokens.

    A prompt is read once for all candidates, and what several candidates begin with once for all of them. An answer
    ends with the model's end of a turn where a candidate is the beginning of another; else what is read of it tells
    it from the others already.

    Args:
        model: a causal or sequence-to-sequence language model.
        tokenizer: its tokenizer.

    Raises:
        ConfigurationError: the tokenizer has neither a token for padding nor one that ends texts.
    """

    def __init__(self, model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> None:
        self.model, self.tokenizer = model, tokenizer
        self._fill = padding_id(tokenizer)

    @torch.inference_mode()
    def log_likelihoods(self, prompts: Sequence[Messages], candidates: Sequence[str]) -> torch.Tensor:
        """(prompts, candidates) float32.

        Args:
            prompts: the messages of each prompt.
            candidates: different answers.

        Raises:
            ConfigurationError: there are fewer than two candidates, two are the same to the model, or a prompt leaves
                no room for them.
        """
        if not prompts:
            return torch.empty(0, len(candidates))
        answers = self._answers(prompts[0], candidates)
        most = context_size(self.model.config)
        most = None if most is None else most - max(map(len, answers))
        return self.of_tokens(prompt_ids(self.tokenizer, prompts, most=most), answers)

    @torch.inference_mode()
    def of_tokens(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> torch.Tensor:
        """(prompts, answers) float32 of tokens: for prompts that are more than messages, such as begun answers.

        Args:
            prompts: the tokens of each prompt.
            answers: the tokens of each answer.
        """
        width = max(map(len, prompts))
        padded = [[self._fill] * (width - len(one)) + one for one in prompts]
        masked = [[0] * (width - len(one)) + [1] * len(one) for one in prompts]
        inputs = torch.tensor(padded, device=self.model.device), torch.tensor(masked, device=self.model.device)
        if self.model.config.is_encoder_decoder:
            return self._of_pairs(*inputs, answers)
        return answers_after(self.model, *inputs, answers)

    def _answers(self, prompt: Messages, candidates: Sequence[str]) -> list[list[int]]:
        """The tokens of candidates, without their ends where these tell nothing."""
        if len(candidates) < 2:
            raise ConfigurationError(f"A choice needs at least two candidates, got {list(candidates)}.")
        whole = [answer_ids(self.tokenizer, prompt, candidate) for candidate in candidates]
        return told_apart(whole, candidates, self.tokenizer.eos_token_id)

    def _of_pairs(self, ids: torch.Tensor, mask: torch.Tensor, answers: list[list[int]]) -> torch.Tensor:
        """Of a model that reads prompts with an encoder; the encoder runs once per prompt."""
        from transformers.modeling_outputs import BaseModelOutput

        n_prompts, n_answers = len(ids), len(answers)
        width = max(map(len, answers))
        labels = torch.tensor([one + [-100] * (width - len(one)) for one in answers], device=ids.device)
        states = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = self.model(
            encoder_outputs=BaseModelOutput(states.repeat_interleave(n_answers, dim=0)),
            attention_mask=mask.repeat_interleave(n_answers, dim=0),
            labels=labels.repeat(n_prompts, 1),
        ).logits.float()
        real = (labels != -100).repeat(n_prompts, 1)
        chosen = labels.clamp(min=0).repeat(n_prompts, 1)
        steps = logits.log_softmax(dim=-1).gather(-1, chosen[..., None])[..., 0] * real
        return (steps.sum(dim=1) / real.sum(dim=1)).reshape(n_prompts, n_answers)


def answers_after(
    model: "PreTrainedModel", ids: torch.Tensor, mask: torch.Tensor, answers: Sequence[Sequence[int]], **inputs: Any
) -> torch.Tensor:
    """(prompts, answers) log-likelihoods of answers that a causal model writes after prompts, per token.

    Args:
        model: the model.
        ids: (prompts, tokens) prompts, padded on the left.
        mask: (prompts, tokens) 1 = real.
        answers: the tokens of each answer.
        **inputs: what the model reads besides the tokens of the prompts, such as cells.
    """
    tree, n_prompts = _Tree.of(answers), len(ids)
    inner = tree.inner
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    read = model(
        input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=bool(inner), logits_to_keep=1, **inputs
    )
    after = {-1: read.logits[:, -1].float().log_softmax(dim=-1)}
    if inner:
        depth, visible = _visible(tree, inner)
        length = mask.sum(dim=1, keepdim=True)
        logits = model(
            input_ids=torch.tensor([tree.tokens[node] for node in inner], device=ids.device).expand(n_prompts, -1),
            attention_mask=_tree_mask(mask, visible.to(ids.device), model.dtype),
            position_ids=length + depth.to(ids.device),
            past_key_values=read.past_key_values,
        ).logits.float()
        after |= {node: logits[:, place].log_softmax(dim=-1) for place, node in enumerate(inner)}
    steps = [after[parent][:, token] for parent, token in zip(tree.parents, tree.tokens, strict=True)]
    return torch.stack([torch.stack([steps[node] for node in path]).mean(dim=0) for path in tree.paths], dim=1)


def told_apart(whole: list[list[int]], candidates: Sequence[str], end: int | None) -> list[list[int]]:
    """The tokens of candidates, with the end of a turn only where one is the beginning of another.

    Args:
        whole: the tokens of each, up to the one that ends a turn.
        candidates: what they say, for messages.
        end: the token that ends a turn.

    Raises:
        ConfigurationError: two are the same tokens.
    """
    seen: dict[tuple[int, ...], str] = {}
    for ids, candidate in zip(whole, candidates, strict=True):
        if tuple(ids) in seen:
            raise ConfigurationError(
                f"The candidates {seen[tuple(ids)]!r} and {candidate!r} are the same tokens to the model: rename one, "
                "or take a language model that tells them apart."
            )
        seen[tuple(ids)] = candidate
    bare = [ids[:-1] if len(ids) > 1 and ids[-1] == end else ids for ids in whole]
    return whole if _has_prefixes(bare) else bare


def _has_prefixes(answers: Sequence[Sequence[int]]) -> bool:
    """Whether an answer is the beginning of another, or the same."""
    ordered = sorted(map(tuple, answers))
    return any(longer[: len(one)] == one for one, longer in itertools.pairwise(ordered))


def _visible(tree: _Tree, inner: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """How deep nodes lie, (nodes,) int64; and which nodes precede which, (nodes, nodes) bool, themselves included."""
    place = {node: number for number, node in enumerate(inner)}
    depth, visible = torch.zeros(len(inner), dtype=torch.int64), torch.eye(len(inner), dtype=torch.bool)
    for number, node in enumerate(inner):
        if tree.parents[node] >= 0:
            parent = place[tree.parents[node]]
            depth[number] = depth[parent] + 1
            visible[number] |= visible[parent]
    return depth, visible


def _tree_mask(mask: torch.Tensor, visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(prompts, 1, nodes, prompt + nodes) what is added to attention scores: 0 where a node sees, else the least."""
    prompt = mask[:, None, None, :].bool().expand(-1, 1, len(visible), -1)
    nodes = visible[None, None].expand(len(mask), 1, -1, -1)
    seen = torch.cat([prompt, nodes], dim=-1)
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, torch.finfo(dtype).min)


def fit_temperature(log_likelihoods: Any, labels: Any) -> float:
    """The temperature that makes `softmax(log_likelihoods / temperature)` best calibrated.

    Args:
        log_likelihoods: (cells, candidates) of cells that the model did not learn from.
        labels: (cells,) numbers of the right candidates.

    Returns:
        Between 0.01 and 100; the one of the least mean negative log-likelihood.

    Raises:
        ConfigurationError: there are no cells.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    scores, labels = np.asarray(log_likelihoods, np.float64), np.asarray(labels)
    if not len(labels):
        raise ConfigurationError("A temperature is fitted on cells held out: there are none.")

    def loss(log_temperature: float) -> float:
        right = log_softmax(scores / np.exp(log_temperature), axis=1)[np.arange(len(labels)), labels]
        return -right.mean()

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.01), np.log(100.0)), method="bounded").x))
