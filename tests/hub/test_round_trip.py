"""Pushed from here, loaded in another process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sclm_hf
from sclm_hf.adapters.lora import load_adapter
from sclm_hf.hub.push import push_to_hub

from ..tasks.tiny import GENES, LABELS
from .hub_folders import client_environment, model_folder, shards_folder, use_server
from .hub_server import HubServer
from .round_trip import logits

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pushed(model, adapter, shards, tmp_path_factory):
    """A Hub with the model (sharded in branch `v2`), the adapter, and shards (others in branch `old`)."""
    folder = tmp_path_factory.mktemp("pushed")
    with HubServer() as server, pytest.MonkeyPatch.context() as monkeypatch:
        use_server(monkeypatch, server)
        push_to_hub(model, "me/model")
        push_to_hub(model_folder(folder / "sharded", max_shard_size="50KB"), "me/model", revision="v2")
        push_to_hub(adapter, "me/adapter", private=True)
        push_to_hub(shards, "me/cells", repo_type="dataset")
        push_to_hub(shards_folder(folder / "old", 2, first=100), "me/cells", repo_type="dataset", revision="old")
        yield server


@pytest.fixture(scope="module")
def loaded(pushed, tmp_path_factory):
    """What the other process found."""
    folder = tmp_path_factory.mktemp("loaded")
    command = [sys.executable, "-m", "tests.hub.round_trip", str(folder / "results.json")]
    environment = client_environment(pushed, folder / "home")
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads((folder / "results.json").read_text())


def test_model_tokenizer_and_processor_through_the_auto_classes(loaded, model):
    local = sclm_hf.ScGPTForSequenceClassification.from_pretrained(model)
    processor = sclm_hf.CellProcessor.from_pretrained(model)
    assert loaded["classes"] == ["ScGPTForSequenceClassification", "ScGPTModel", "CellProcessor"]
    assert loaded["labels"] == {str(number): name for number, name in LABELS.items()}
    assert loaded["tokens"] == processor.tokenizer.convert_tokens_to_ids(["<cls>", *GENES])
    assert loaded["model"] == loaded["sharded"]
    np.testing.assert_allclose(loaded["model"], logits(local, processor), rtol=0, atol=1e-5)


def test_adapter_through_peft_and_through_ours(loaded, model, adapter):
    local = logits(load_adapter(adapter, base=model), sclm_hf.CellProcessor.from_pretrained(adapter))
    assert loaded["peft"] == loaded["load_adapter"]
    np.testing.assert_allclose(loaded["peft"], local, rtol=0, atol=1e-5)
    assert np.abs(np.subtract(local, loaded["model"])).max() > 0.01
    assert re.fullmatch("[0-9a-f]{40}", loaded["revision"])
    assert loaded["annotated"] == [LABELS[best] for best in np.argmax(local, axis=1)]


def test_shards_through_datasets(loaded):
    assert loaded["streamed from main"] == list(range(15))
    assert loaded["streamed from old"] == list(range(100, 110))
    assert loaded["loaded"] == [[0, 1, 2], [1, 2, 3]]


def test_objects_push_themselves(loaded, pushed):
    assert loaded["plain"] == loaded["model"]
    assert loaded["plain tokens"] == loaded["tokens"]
    repository = pushed.store.repository("me/plain")
    assert repository.private
    assert {"model.safetensors", "processor_config.json", "README.md"} <= set(repository.contents())
    tokenizer = pushed.store.repository("me/tokenizer")
    assert set(tokenizer.branches) == {"main", "mine"} and tokenizer.contents() == {}
