"""What `finetune --text` saves is served by `transformers serve`, which knows nothing of this package."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from sclm_hf.text.annotator import TextProcessor
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.closed_set import Candidates

from .small import GENES, LABELS, make_language_model

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
QUESTION = {"role": "user", "content": "Which cell type is it?\nGENE2 GENE0 GENE1"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server of a text annotator."""
    model, tokenizer = make_language_model()
    model.save_pretrained(tmp_path / "model")
    candidates = Candidates(labels=LABELS, prompt="Which cell type is it?\n{sentence}")
    TextProcessor(tokenizer, sentence_processor(GENES, 8), candidates).save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = [sys.executable, "-c", SERVE, "serve", str(tmp_path / "model"), "--device", "cpu", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield f"http://127.0.0.1:{port}", str(tmp_path / "model"), process
        process.terminate()


def asked(address: str, content: dict | None = None) -> dict:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(address: str, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            return asked(f"{address}/health")
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.5)
    raise AssertionError("the server ended")


@pytest.mark.slow
def test_a_saved_model_answers_a_client(server):
    address, name, process = server
    wait_for(address, process)
    question = {"model": name, "messages": [QUESTION], "max_tokens": 4, "stream": False}
    answer = asked(f"{address}/v1/chat/completions", question)
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["prompt_tokens"] > 5
