import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from .hub_folders import adapter_folder, model_folder, shards_folder, use_server
from .hub_server import HubServer


@pytest.fixture
def hub(monkeypatch):
    """An empty Hub that this process's client talks to, logged in and without waits between its attempts."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    with HubServer() as server:
        use_server(monkeypatch, server)
        yield server
    if shown:
        enable_progress_bars()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a classifier with its processor and card. Copy it before changing it."""
    return model_folder(tmp_path_factory.mktemp("folders") / "model")


@pytest.fixture(scope="session")
def adapter(model, tmp_path_factory):
    """Folder of a LoRA of that classifier, whose base is `me/model`. Copy it before changing it."""
    return adapter_folder(tmp_path_factory.mktemp("folders") / "adapter", model)


@pytest.fixture(scope="session")
def shards(tmp_path_factory):
    """Folder of three Parquet shards with a card. Copy it before changing it."""
    return shards_folder(tmp_path_factory.mktemp("folders") / "shards")
