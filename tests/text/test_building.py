import json

import datasets
import pytest

from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.errors import ConfigurationError, CorpusError
from sclm_hf.text import building
from sclm_hf.text.building import build_conversations
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.conversations import Conversations

from .small import GENES, write_cells

SIZES = {"window_size": 8, "group_size": 4, "block_size": 4}


def conversations_of(folder, task="assign", **settings):
    corpus = CellCorpus(write_cells(folder, 30), sentence_processor(GENES, 6), label_column="cell_type", **SIZES)
    return Conversations(corpus, task, **({"cells": (2, 3)} if task == "assign" else {}), **settings)


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_prompts_and_completions(tmp_path, streaming):
    conversations = conversations_of(tmp_path)
    manifest = build_conversations(conversations, tmp_path / "out", shard_size=16, license="mit")
    assert [shard["n_rows"] for shard in manifest["shards"]] == [16, 14] and manifest["n_rows"] == 30
    settings = {"split": "train", "streaming": streaming, "cache_dir": str(tmp_path / "cache")}
    assert list(datasets.load_dataset(str(tmp_path / "out"), **settings)) == list(conversations.to_dataset())


def test_the_card_says_what_was_asked(tmp_path):
    build_conversations(
        conversations_of(tmp_path, system="Be | brief."), tmp_path / "out", title="Puzzles", license="mit"
    )
    card = (tmp_path / "out" / "README.md").read_text()
    for part in (
        "license: mit",
        "# Puzzles",
        "| task | assign |",
        "n<1K",
        "| conversations | 30 |",
        "system: Be | brief.",
    ):
        assert part in card
    huggingface_hub = pytest.importorskip("huggingface_hub")
    assert huggingface_hub.DatasetCard(card).data.license == "mit"


def test_a_stopped_build_goes_on_and_ends_with_the_same_rows(tmp_path, monkeypatch):
    conversations = conversations_of(tmp_path)
    whole = build_conversations(conversations, tmp_path / "whole", shard_size=8)
    original, hashed = building.hash_file, []

    def failing(path):
        hashed.append(path)
        if len(hashed) == 3:
            raise CorpusError("No space left")
        return original(path)

    monkeypatch.setattr(building, "hash_file", failing)
    with pytest.raises(CorpusError, match="No space"):
        build_conversations(conversations, tmp_path / "out", shard_size=8)
    assert not (tmp_path / "out" / "instructions.json").exists()
    # a shard that was damaged meanwhile is written again
    (tmp_path / "out" / "data" / "00001.parquet").write_bytes(b"half")
    for _ in range(2):
        assert build_conversations(conversations, tmp_path / "out", shard_size=8) == whole
    assert json.loads((tmp_path / "out" / "instructions.json").read_text()) == whole


def test_a_folder_with_something_else_is_refused(tmp_path):
    build_conversations(conversations_of(tmp_path), tmp_path / "out")
    with pytest.raises(ConfigurationError, match="made from other cells, settings"):
        build_conversations(conversations_of(tmp_path, templates="held_out"), tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not empty"):
        build_conversations(conversations_of(tmp_path), tmp_path / "full")
    with pytest.raises(ConfigurationError, match="at least 1"):
        build_conversations(conversations_of(tmp_path), tmp_path / "new", shard_size=0)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "rows").write_text("mine")
    with pytest.raises(ConfigurationError, match="is a file: name a new folder"):
        build_conversations(conversations_of(tmp_path), tmp_path / "rows")
