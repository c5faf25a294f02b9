"""What `finetune --text` saves is served by `transformers serve` and vLLM, which know nothing of this package."""

import json
import os
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

SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
QUESTION = {"role": "user", "content": "Which cell type is it?\nGENE2 GENE0 GENE1"}


VLLM = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    model = LLM(sys.argv[1], dtype="float32", max_model_len=64, enforce_eager=True)
    greedy = SamplingParams(temperature=0, max_tokens=12)
    answers = model.chat(json.loads(sys.argv[2]), greedy, use_tqdm=False)
    written = [[one.prompt_token_ids, list(one.outputs[0].token_ids)] for one in answers]
    print("\\nwritten: " + json.dumps(written))
"""


@pytest.fixture
def saved(tmp_path):
    """A language model, its tokenizer, and the folder of a text annotator with them."""
    # vLLM has attention for heads of 32 numbers and more
    model, tokenizer = make_language_model(hidden_size=64)
    model.save_pretrained(tmp_path / "model")
    candidates = Candidates(labels=LABELS, prompt="Which cell type is it?\n{sentence}")
    TextProcessor(tokenizer, sentence_processor(GENES, 8), candidates).save_pretrained(tmp_path / "model")
    return model, tokenizer, tmp_path / "model"


@pytest.fixture
def server(saved, tmp_path, monkeypatch):
    """The address of a server of a text annotator."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
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


@pytest.mark.slow
def test_vllm_writes_the_same_tokens(saved, tmp_path):
    if not (python := os.environ.get("SCLM_VLLM")):
        pytest.skip("SCLM_VLLM names no Python of an environment with vLLM")
    model, tokenizer, folder = saved
    asked = [[{"role": "user", "content": f"Which cell type is it?\n{genes}"}] for genes in ("GENE2 GENE0", "GENE5")]
    # a process of its own starts from a file
    script = tmp_path / "vllm_script.py"
    script.write_text(VLLM)
    run = subprocess.run(
        [python, str(script), str(folder), json.dumps(asked)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    [written] = [json.loads(line[9:]) for line in run.stdout.splitlines() if line.startswith("written: ")]
    for messages, (prompt, answer) in zip(asked, written, strict=True):
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        expected = model.generate(**ids, max_new_tokens=12, do_sample=False)[0].tolist()
        assert prompt == ids["input_ids"][0].tolist()
        assert answer == expected[len(prompt) :]
