"""More genes at a fixed budget of tokens: accuracy, time and memory of dense attention, Performer and flow."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..evaluation.plots import plot_lines
from ..evaluation.splits import stratified_splits
from ..modeling.common.attention.flow import flow_attention
from ..modeling.common.attention.performer import orthogonal_random_features, performer_attention
from .cells import labels_of, of_variable_genes, read_cells, written
from .experiment import FAST, Experiment, Found, Page, Piece, Table
from .models import baselines, embedding, pretrained, probed, tested
from .tables import annotation_page

DATASET = "covid_balf_liao"
GENES = (500, 1000, 2000, 3000)
TOKENS = 240_000
"""Gene values that each model is trained on, whatever the number of genes."""

MODELS = {
    "scGPT, dense": ("dense", 8, ("--encoding", '{"include_zero_genes": true, "max_length": 4096}')),
    "scBERT, Performer": ("performer", 8, ()),
    "CellPLM, flow between cells": ("flow", 20, ()),
}
"""Title -> recipe, cells per step, which make up the budget whatever the number of genes, and flags."""

N_CELLS, HEADS, HEAD_DIM = 4, 4, 16


def run(piece: Piece) -> dict[str, Any]:
    """Labels by probes on embeddings, and what training, embedding and attention alone cost."""
    n_genes = _number(piece.setting) if piece.size != FAST else _number(piece.setting) // 20
    cells = of_variable_genes(read_cells(piece, DATASET), n_genes)
    (split,) = stratified_splits(labels_of(cells), seeds=[piece.seed])
    file = written(cells[split.train], piece, "train")
    predicted, costs = baselines(cells, split), {}
    for title, (recipe, n_cells, flags) in MODELS.items():
        n_steps = TOKENS // (n_genes * n_cells) if piece.size != FAST else piece.size.n_steps
        sized = piece._replace(size=piece.size._replace(n_steps=n_steps))
        with _measured() as training:
            folder = pretrained(sized, recipe, [file], "--per_device_train_batch_size", str(n_cells), *flags)
        with _measured() as embedding_cells:
            vectors = embedding(cells, folder)
        predicted[title] = probed(vectors, labels_of(cells), split)
        costs[title] = {"training": training, "embedding": embedding_cells, "n_cells": cells.n_obs, "n_steps": n_steps}
    return tested(cells, split, predicted) | {"costs": costs, "attention": _attention(n_genes, piece.seed)}


@contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """CPU seconds, and the most memory in MB above what there was."""
    found: dict[str, float] = {}
    before, start = _forget_peak(), time.process_time()
    yield found
    found["cpu_seconds"] = time.process_time() - start
    found["peak_mb"] = float(np.maximum(0.0, (_memory("VmHWM") - before) / 1024))


def _forget_peak() -> float:
    """Memory in kB that is held now; NaN where there is no such count."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return np.nan
    return _memory("VmRSS")


def _memory(key: str) -> float:
    status = Path("/proc/self/status")
    if not status.exists():
        return np.nan
    return next(float(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))


def _attention(n_tokens: int, seed: int) -> dict[str, dict[str, float]]:
    """What attention alone costs, forward and backward, for one batch of tokens."""
    generator = torch.Generator().manual_seed(seed)
    given = [
        torch.randn(N_CELLS, HEADS, n_tokens, HEAD_DIM, generator=generator, requires_grad=True) for _ in range(3)
    ]
    projection = orthogonal_random_features(int(HEAD_DIM * np.log(HEAD_DIM)), HEAD_DIM, generator=generator)
    kinds = {
        "dense, written out": lambda: (given[0] @ given[1].mT * HEAD_DIM**-0.5).softmax(-1) @ given[2],
        "dense, fused": lambda: torch.nn.functional.scaled_dot_product_attention(*given),
        "Performer": lambda: performer_attention(*given, projection),
        "flow": lambda: flow_attention(*given),
    }
    costs = {}
    for name, attend in kinds.items():
        attend().sum().backward()
        with _measured() as costs[name]:
            attend().sum().backward()
    return costs


def report(found: Found) -> Page:
    """Tables of labels for each number of genes, and of costs."""
    page = annotation_page(found, "PCA + LR")
    seconds, memory = _lines(found, "cpu_seconds", 1e-3), _lines(found, "peak_mb", 1)
    for title, name, unit in (("Training", "training", "step"), ("Embedding", "embedding", "cell")):
        rows = [[model, *_per(found, model, name, unit)] for model in MODELS]
        note = (
            f"CPU milliseconds per {'cell of a step' if unit == 'step' else 'cell'}, start included; in brackets the "
            f"most memory in MB above what there was. Means over {len(next(iter(found.values())))} seeds."
        )
        page.tables.append(Table(f"{title}: costs", ["model", *found], rows, note))
    panels = {
        ("tokens", f"attention: CPU seconds per {N_CELLS} cells"): seconds,
        ("tokens", "attention: most memory (MB)"): memory,
    }
    caption = (
        "Forward and backward pass of attention alone, 4 heads of 16, mean over seeds. 1 MB stands also for less, "
        "where memory that the process held already was enough."
    )
    page.figures["attention"] = (plot_lines(panels, log=True)[0].figure, caption)
    page.numbers = {
        "annotation": page.numbers,
        "costs": {setting: [one["costs"] for one in seeds.values()] for setting, seeds in found.items()},
        "attention": {setting: [one["attention"] for one in seeds.values()] for setting, seeds in found.items()},
    }
    return page


def _number(setting: str) -> int:
    return int(setting.split()[0])


def _lines(found: Found, what: str, least: float) -> dict[str, np.ndarray]:
    """Kind of attention -> tokens and mean costs, drawn as `least` where they are less."""
    kinds = next(iter(next(iter(found.values())).values()))["attention"]
    means = {
        kind: [np.mean([one["attention"][kind][what] for one in seeds.values()]) for seeds in found.values()]
        for kind in kinds
    }
    # nothing has no logarithm
    return {kind: np.array([[*map(_number, found)], np.maximum(values, least)]) for kind, values in means.items()}


def _per(found: Found, model: str, name: str, unit: str) -> list[str]:
    cells = []
    for seeds in found.values():
        costs = [one["costs"][model] for one in seeds.values()]
        number = costs[0]["n_cells"] if unit == "cell" else costs[0]["n_steps"] * MODELS[model][1]
        milliseconds = 1000 * np.mean([one[name]["cpu_seconds"] for one in costs]) / number
        cells.append(f"{milliseconds:,.0f} ({np.mean([one[name]['peak_mb'] for one in costs]):,.0f})")
    return cells


EXPERIMENT = Experiment(
    name="scaling",
    title="More genes at a fixed budget",
    question=f"With {TOKENS:,} gene values to train on, is it better to see more genes or more cells, and what do "
    "dense attention, Performer and flow cost?",
    datasets=(DATASET,),
    settings=tuple(f"{number} genes" for number in GENES),
    run=run,
    report=report,
    methods=(
        "Settings: the most variable genes. All genes of a cell, expressed or not, are tokens of scGPT and scBERT; "
        "CellPLM's tokens are cells, so that flow attention costs the same whatever the number of genes. There is no "
        "model here with flow attention between genes; attention alone is measured with it below.",
        "Models are pre-trained by masking on four fifths of the cells; a logistic regression on the frozen embedding "
        "(zero-shot) labels the others. The baselines read the same genes.",
        f"Seconds are those of the CPU, and vary with what else it does. Memory is the most that the process held "
        f"above what it held before. Training sees {TOKENS:,} gene values: from {TOKENS // GENES[0]:,} cells of "
        f"{GENES[0]} genes to {TOKENS // GENES[-1]:,} of {GENES[-1]:,}.",
    ),
)
