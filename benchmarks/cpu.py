"""What `sclm_hf.modeling.common.cpu` gains on this CPU, family by family, and what training in bfloat16 costs.

    python benchmarks/cpu.py --output benchmarks/results/cpu.json

Embedding: the encoder of each family, with random weights of the released width and two layers, on cells as published.
`plain` is the model as it is, `fast` as `embed` runs it. Training: one step of a small scGPT (4 layers of 128, 32
cells of 300 genes) in float32 and under bfloat16 autocast, with torch's fused and with plain attention. The variants
take turns, each time is the best of several rounds, and it is CPU time, so that other processes matter less; ratios
are against `plain` in float32, above 1 = faster.
"""

import argparse
import contextlib
import copy
import functools
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from families import build, make_cells
from machine import describe_machine
from transformers import AutoModel

import sclm_hf
from sclm_hf import ScGPTConfig, ScGPTForMaskedExpression
from sclm_hf.modeling.common.cpu import fast_on_cpu

CELLS = {
    "cellplm": 128,
    "geneformer": 1,
    "iseeek": 16,
    "scbert": 1,
    "scfoundation": 1,
    "scgpt": 3,
    "tgpt": 8,
    "uce": 1,
}
LAYERS = {"cellplm": {}, "tgpt": {"n_layer": 2}}
"""Settings that make a family short, where that is not `num_hidden_layers`."""

GENES, VOCABULARY = 300, 5000


def best_times(variants: dict, rounds: int) -> dict[str, float]:
    """Seconds of CPU of each variant, which take turns; the first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, run in variants.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: min(some[1:]) for name, some in times.items()}


def embed_family(family: str, rounds: int) -> dict[str, float]:
    cells = make_cells(CELLS[family])
    model, processor = build(family, list(cells.var_names), LAYERS.get(family, {"num_hidden_layers": 2}))
    base = model.base_model if type(model.base_model) is not type(model) else AutoModel.from_config(model.config)
    batch = processor(cells, return_tensors="pt")
    half = copy.deepcopy(base).to(torch.bfloat16).eval()

    def run(model, way):
        with torch.inference_mode(), way(model):
            model(**batch)

    ways = {"plain": contextlib.nullcontext, "fast": fast_on_cpu}
    models = {"float32": base.eval(), "bfloat16": half}
    variants = {f"{dtype} {name}": (models[dtype], way) for dtype in models for name, way in ways.items()}
    times = best_times({name: functools.partial(run, *one) for name, one in variants.items()}, rounds)
    return {"float32 seconds": times["float32 plain"]} | ratios(times, "float32 plain")


def train_scgpt(rounds: int) -> dict[str, float]:
    config = ScGPTConfig(
        vocab_size=VOCABULARY,
        pad_token_id=0,
        cls_token_id=1,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
    )
    model = ScGPTForMaskedExpression(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    values = torch.randint(0, 51, (32, GENES)).float()
    batch = {"input_ids": torch.randint(3, VOCABULARY, (32, GENES)), "expression_values": values}
    batch["attention_mask"] = (torch.arange(GENES) < torch.randint(200, GENES, (32, 1))).long()
    batch["labels"] = values.where(torch.rand(values.shape) < 0.4, -100.0)

    def step(implementation: str, half: bool):
        model.set_attn_implementation(implementation)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    ways = {"float32": ("sdpa", False), "float32 eager": ("eager", False)}
    ways |= {"bfloat16": ("sdpa", True), "bfloat16 eager": ("eager", True)}
    times = best_times({name: functools.partial(step, *way) for name, way in ways.items()}, rounds)
    return {"float32 seconds": times["float32"]} | ratios(times, "float32")


def ratios(times: dict[str, float], reference: str) -> dict[str, float]:
    return {name: times[reference] / seconds for name, seconds in times.items() if name != reference}


def run_alone(what: str, rounds: int) -> dict[str, float]:
    """Measure in a process of its own, whose memory is given back."""
    command = [sys.executable, __file__, "--measure", what, "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="*", default=sorted(CELLS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.measure:
        one = arguments.measure
        found = train_scgpt(arguments.rounds) if one == "training" else embed_family(one, arguments.rounds)
        print(json.dumps(found))
        return
    report = {
        "benchmark": "cpu",
        "settings": {"rounds": arguments.rounds, "threads": 1},
        "versions": {"sclm_hf": sclm_hf.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": describe_machine(),
        "embedding": {},
    }
    for family in arguments.families:
        report["embedding"][family] = run_alone(family, arguments.rounds)
        print(family, report["embedding"][family], flush=True)
    report["training"] = run_alone("training", arguments.rounds)
    print("training", report["training"], flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
