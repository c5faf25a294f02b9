"""Every family at its released size, with random weights: what it costs to encode, embed and train.

    python benchmarks/families.py --output benchmarks/results/families.json

Each family runs in a process of its own, one after the other, with a limit of time; what it has measured by then is
kept, and what is missing is said. Cells are drawn like an atlas (about 1,650 of 20,000 genes expressed) and encoded as
published; names of genes are looked up beforehand. Times are the best of two rounds; memory is the peak of the process
above what it held before. A training step is forward, backward and AdamW on one cell (on two of scFoundation, whose
classifier normalises over the batch), with the family's LoRA and then with all weights. `load_before` in the results
tells whether others used the machine.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

MEGABYTE = 2**20
NUM_GENES = 20_000
SIZES = {
    "cellplm": {},
    "geneformer": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
    },
    "iseeek": {"num_hidden_layers": 8, "num_attention_heads": 8},
    "scbert": {"num_random_features": None},
    "scfoundation": {},
    "scgpt": {},
    "tgpt": {},
    "uce": {"num_hidden_layers": 4},
}
"""Settings beside the configuration's defaults: the released size that is measured."""

COLUMNS = {
    "weights": ("weights (M)", "{:.0f}"),
    "encode": ("encode (cells/s)", "{:,.0f}"),
    "embed_float32": ("embed fp32 (cells/s)", "{:.2f}"),
    "embed_bfloat16": ("embed bf16 (cells/s)", "{:.2f}"),
    "embed_memory": ("embed peak (MB)", "{:,.0f}"),
    "train": ("training step (s)", "{:.2f}"),
    "train_memory": ("its peak (MB)", "{:,.0f}"),
    "lora": ("LoRA step (s)", "{:.2f}"),
    "lora_share": ("LoRA weights (%)", "{:.2f}"),
}


def make_cells(num_cells: int):
    """Counts whose shape is that of an atlas."""
    import anndata
    import scipy.sparse

    random = np.random.default_rng(0)
    means = random.lognormal(-3.5, 2.0, NUM_GENES)
    means *= 3000 / means.sum()
    rates = random.lognormal(0, 0.5, (num_cells, 1)) * means
    cells = anndata.AnnData(scipy.sparse.csr_matrix(random.poisson(random.gamma(2.0, rates / 2)).astype(np.float32)))
    cells.var_names = [f"G{number:05d}" for number in range(NUM_GENES)]
    cells.obs_names = [f"cell{number}" for number in range(num_cells)]
    return cells


class Peak:
    """Peak of the resident memory above what it was, in MB; watched every few milliseconds."""

    def __enter__(self):
        self.process, self.done = psutil.Process(), threading.Event()
        self.start = self.highest = self.process.memory_info().rss
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self):
        while not self.done.wait(0.002):
            self.highest = max(self.highest, self.process.memory_info().rss)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.megabytes = (max(self.highest, self.process.memory_info().rss) - self.start) / MEGABYTE


def best_of(rounds: int, run) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def build(family: str, genes: list[str], changes: dict | None = None):
    """A classifier of released size with random weights, and its processor with the published encoding."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from sclm_hf.opening.new_models import new_config
    from sclm_hf.opening.tiny import make_processor

    torch.manual_seed(0)
    processor = make_processor(family, genes)
    config = new_config(family, processor, SIZES.get(family, {}) | (changes or {}))
    config.num_labels = 10
    return AutoModelForSequenceClassification.from_config(config).eval(), processor


def measure(family: str, num_cells: int) -> None:
    """Print each measurement as a line of JSON as soon as it is there."""
    import torch
    from transformers import AutoModel

    from sclm_hf.adapters.lora import add_lora
    from sclm_hf.modeling.common.outputs import embedding_of
    from sclm_hf.opening.loading import LoadedModel
    from sclm_hf.tasks.running.batches import run_cells
    from sclm_hf.tasks.running.prepared_cells import prepare_cells

    def tell(**found):
        print(json.dumps(found), flush=True)

    many, cells = make_cells(200), make_cells(num_cells)
    model, processor = build(family, list(many.var_names))
    base = model.base_model if type(model.base_model) is not type(model) else AutoModel.from_config(model.config)
    base.eval()
    tell(weights=model.num_parameters() / 1e6)
    ids = processor.map_genes(list(many.var_names)).gene_ids
    names = np.arange(many.n_obs)
    processor.encode(many.X[:1], ids, cell_ids=names[:1])
    tell(encode=many.n_obs / best_of(2, lambda: processor.encode(many.X, ids, cell_ids=names)))
    loaded = LoadedModel(base, processor, "in memory", "")

    def embed_batch(model, batch):
        return embedding_of(model(**batch), base.config)

    one, prepared = prepare_cells(cells[:1], loaded), prepare_cells(cells, loaded)
    for dtype in ("float32", "bfloat16"):
        base.to(getattr(torch, dtype))
        run_cells(loaded, one, embed_batch, batch_size=4, description="one")
        with Peak() as peak:
            seconds = best_of(2, lambda: run_cells(loaded, prepared, embed_batch, batch_size=4, description="all"))
        tell(**{f"embed_{dtype}": num_cells / seconds})
        if dtype == "float32":
            tell(embed_memory=peak.megabytes)
    model.float().train()
    # scFoundation's classifier normalises over the batch
    num_trained = 2 if family == "scfoundation" else 1
    batch = processor(cells[:num_trained], return_tensors="pt")
    batch |= {"labels": torch.zeros(num_trained, dtype=torch.long)}
    for name in ("lora", "train"):
        trained = add_lora(model) if name == "lora" else trained.unload().requires_grad_(True)  # noqa: F821
        weights = [weight for weight in trained.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-4)

        def step(trained=trained, optimizer=optimizer):
            trained(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        with Peak() as peak:
            seconds = best_of(2, step)
        tell(**{name: seconds, f"{name}_memory": peak.megabytes})
        if name == "lora":
            share = sum(weight.numel() for weight in weights) / sum(w.numel() for w in trained.parameters())
            tell(lora_share=100 * share)


def run_family(family: str, num_cells: int, limit: float) -> dict:
    """What the process of a family measured, and why something is missing."""
    command = [sys.executable, __file__, "--measure", family, "--cells", str(num_cells)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        output, problem = done.stdout, done.stderr.strip().splitlines()[-1:] if done.returncode else []
        if done.returncode < 0:
            problem = [f"ended by signal {-done.returncode}, which is 9 where memory ran out"]
    except subprocess.TimeoutExpired as stopped:
        output = (stopped.stdout or b"").decode()
        problem = [f"stopped after {limit:.0f} s"]
    found = {}
    for line in output.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    return found | ({"problem": problem[0]} if problem else {})


def print_table(results: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Families at released size, random weights", title_justify="left")
    table.add_column("family")
    for title, _ in COLUMNS.values():
        table.add_column(title, justify="right")
    for family, found in results.items():
        table.add_row(
            family, *(form.format(found[key]) if key in found else "–" for key, (_, form) in COLUMNS.items())
        )
    Console(width=170).print(table)
    for family, found in results.items():
        if "problem" in found:
            print(f"{family}: {found['problem']}")


def main() -> None:
    from sclm_hf.registry import FAMILIES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--cells", type=int, default=4, help="cells to embed")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds a family may take")
    parser.add_argument("--families", nargs="+", default=sorted(FAMILIES))
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.cells)
        return
    load = os.getloadavg()[0]
    results = {family: run_family(family, arguments.cells, arguments.limit) for family in arguments.families}
    print_table(results)
    if arguments.output:
        packages = ("torch", "transformers", "peft", "numpy", "numba")
        facts = {
            "versions": {name: importlib.metadata.version(name) for name in packages}
            | {"python": platform.python_version()},
            "machine": {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()},
            "cells": arguments.cells,
            "load_before": load,
            "families": results,
        }
        arguments.output.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
