"""Tiny folders to push, the settings that point a client at the test server, and a client without waits."""

import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from sclm_hf import ScGPTForSequenceClassification
from sclm_hf.adapters.lora import add_lora, save_adapter
from sclm_hf.hub.base_model import name_base
from sclm_hf.hub.card import CardFacts, write_card

from ..tasks.tiny import make_model, make_processor
from .hub_server import TOKEN, HubServer


def model_folder(folder: Path, repo_id: str = "me/model", **saving) -> Path:
    """A classifier with its processor and its card; `saving` goes to `save_pretrained`."""
    make_model(ScGPTForSequenceClassification).save_pretrained(folder, **saving)
    make_processor().save_pretrained(folder)
    write_card(CardFacts("Tiny", "scgpt", "mit", "A tiny model.", model=repo_id), folder)
    return folder


def adapter_folder(folder: Path, base: Path, repo_id: str = "me/adapter", base_id: str = "me/model") -> Path:
    """A LoRA adapter of the classifier in `base`, whose repository is `base_id`; its weights are not zero."""
    torch.manual_seed(3)
    model = add_lora(ScGPTForSequenceClassification.from_pretrained(base), init_lora_weights=False)
    save_adapter(model, folder, processor=make_processor())
    name_base(folder, base_id)
    facts = CardFacts("Tiny adapter", "scgpt", "mit", "A.", model=repo_id, base_model=base_id, is_adapter=True)
    write_card(facts, folder)
    return folder


def shards_folder(folder: Path, shards: int = 3, first: int = 0) -> Path:
    """Parquet shards of five cells each, numbered from `first` on."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        start = first + 5 * number
        columns = {"cell": np.arange(start, start + 5), "input_ids": [[i, i + 1, i + 2] for i in range(5)]}
        name = f"train-{number:05d}-of-{shards:05d}.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "data" / name)
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n\n# Cells\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Path -> content of all files of a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def client_environment(server: HubServer, home: Path) -> dict[str, str]:
    """Environment of a process whose Hub is `server`. The client reads it when it is imported."""
    inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return inherited | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": "1",
    }


def use_server(monkeypatch, server: HubServer) -> None:
    """Point this process's client at `server`, and let it repeat requests without waiting."""
    import huggingface_hub
    from huggingface_hub.utils import _http

    for name in list(os.environ):
        if "proxy" in name.lower():
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(_http, "time", _NoWaits)
    _http.close_session()


class _NoWaits:
    @staticmethod
    def sleep(seconds: float) -> None:
        pass
