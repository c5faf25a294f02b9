"""Vocabularies of original tokenizers whose words are genes."""

from collections.abc import Iterable
from pathlib import Path

from sclm_hf.errors import CheckpointError
from sclm_hf.modeling.common.legacy import read_json_object, read_pickle


def read_word_level(path: Path, special_tokens: Iterable[str]) -> dict[str, int]:
    """Word -> id of a `tokenizer.json` that looks words up and nothing else.

    Raises:
        CheckpointError: it is missing, damaged, of another kind, or lacks one of `special_tokens`.
    """
    settings = read_json_object(path, once=True)
    model = settings.get("model")
    words = model.get("vocab") if isinstance(model, dict) and model.get("type") == "WordLevel" else None
    if not _is_vocabulary(words) or settings.get("normalizer") is not None:
        raise CheckpointError(f"`{path}` is no tokenizer of whole words: take it from the release of the weights.")
    added = settings.get("added_tokens") or []
    return _in_order(words | {token["content"]: token["id"] for token in added}, path, special_tokens)


def read_pickled_words(path: Path, special_tokens: Iterable[str]) -> dict[str, int]:
    """Word -> id of a pickled dictionary; nothing in it is run.

    Raises:
        CheckpointError: it is missing, damaged, holds anything else, or lacks one of `special_tokens`.
    """
    words = read_pickle(path)
    if not _is_vocabulary(words):
        raise CheckpointError(f"`{path}` is no dictionary of words and their ids: take it from the release.")
    return _in_order(words, path, special_tokens)


def _is_vocabulary(words: object) -> bool:
    return isinstance(words, dict) and all(
        isinstance(word, str) and type(number) is int and number >= 0 for word, number in words.items()
    )


def _in_order(words: dict[str, int], path: Path, special_tokens: Iterable[str]) -> dict[str, int]:
    if lost := [token for token in special_tokens if token not in words]:
        raise CheckpointError(f"`{path}` lacks `{lost[0]}`: take it from the release of the weights.")
    return dict(sorted(words.items(), key=lambda pair: pair[1]))
