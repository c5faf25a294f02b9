"""Conversations as the text and the tokens of a model: through its chat template, or plain where it has none."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]


def prompt_text(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> str:
    """A prompt as the model reads it, ready for its answer.

    Without a chat template it is the contents of the messages, a blank line between them and a line break at the end.
    """
    if tokenizer.chat_template is None:
        return "\n\n".join(message["content"] for message in messages) + "\n"
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)


def answer_text(tokenizer: "PreTrainedTokenizerBase", messages: Messages, answer: str) -> str:
    """What follows the prompt when `answer` is given, the mark of its end included.

    Raises:
        ConfigurationError: the chat template changes the prompt once there is an answer.
    """
    if tokenizer.chat_template is None:
        return answer + (tokenizer.eos_token or "")
    prompt = prompt_text(tokenizer, messages)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    if not whole.startswith(prompt):
        raise ConfigurationError(
            "The chat template of the tokenizer writes a prompt differently once it is answered: give the tokenizer "
            "another `chat_template`, in which `add_generation_prompt` writes what precedes every answer."
        )
    return whole[len(prompt) :]


def answer_ids(tokenizer: "PreTrainedTokenizerBase", messages: Messages, answer: str) -> list[int]:
    """The tokens of an answer, up to the one that ends it.

    Raises:
        ConfigurationError: as for [`answer_text`]; or the answer has no token.
    """
    ids = tokenizer(answer_text(tokenizer, messages, answer), add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id) + 1]
    if not ids:
        raise ConfigurationError(f"The answer {answer!r} has no token: give another one.")
    return ids


def prompt_ids(
    tokenizer: "PreTrainedTokenizerBase", conversations: Sequence[Messages], *, most: int | None = None
) -> list[list[int]]:
    """The tokens of prompts.

    Args:
        tokenizer: the tokenizer.
        conversations: the messages of each prompt.
        most: how many tokens a prompt may have.

    Raises:
        ConfigurationError: a prompt has more.
    """
    if not conversations:
        return []
    texts = [prompt_text(tokenizer, messages) for messages in conversations]
    # a chat template writes the special tokens itself
    encoded = tokenizer(texts, add_special_tokens=tokenizer.chat_template is None)["input_ids"]
    if tokenizer.chat_template is None and tokenizer.eos_token_id is not None:
        encoded = [ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids for ids in encoded]
    longest = max(map(len, encoded), default=0)
    if most is not None and longest > most:
        raise ConfigurationError(
            f"A prompt has {longest:,} tokens, and the model reads {most:,}, the answer included: write fewer genes "
            "of each cell (`n_genes`, `--n_genes`), or make each gene one token (`gene_tokens`, `--gene_tokens`)."
        )
    return encoded


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """What fills batches: the token for that, or the one that ends texts, as it is masked anyway.

    Raises:
        ConfigurationError: there is neither.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise ConfigurationError("The tokenizer has neither a `pad_token` nor an `eos_token`: set `tokenizer.pad_token`.")


def context_size(config: Any) -> int | None:
    """How many tokens a model reads, prompt and answer together; None where it does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
