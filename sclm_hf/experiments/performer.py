"""The Performer's attention beside exact attention: features, orthogonality, redraws, bfloat16, and where it fails."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..evaluation.plots import plot_lines
from ..modeling.common.attention.performer import orthogonal_random_features, performer_attention
from ..opening.loading import load_model
from .cells import of_variable_genes, read_cells, written
from .experiment import Experiment, Found, Page, Piece, Table
from .models import embedding, pretrained

DATASET = "pbmc_3tech_symphony_1200"
SCALES = (0.5, 1.0, 1.5, 2.0)
"""Deviations of the entries of queries and keys."""

N_TOKENS, HEAD_DIM, N_HEADS = 512, 16, 4
FEATURES = (16, 64, 256, 1024)
PUBLISHED = int(HEAD_DIM * np.log(HEAD_DIM))
N_CELLS = 8

BASELINE = "mean of the values"


def run(piece: Piece) -> dict[str, Any]:
    """Relative errors of what queries read, by method, for queries and keys of several kinds."""
    kinds = _drawn(piece) if piece.setting == "random" else _trained(piece)
    return {"errors": {kind: _errors(*given, piece.seed) for kind, given in kinds}}


def _drawn(piece: Piece) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor]]]:
    """Normal queries, keys and values."""
    generator = torch.Generator().manual_seed(piece.seed)
    for scale in SCALES:
        query, key, value = torch.randn(3, 1, N_HEADS, N_TOKENS, HEAD_DIM, generator=generator)
        yield f"deviation {scale:g}", (scale * query, scale * key, value)


def _trained(piece: Piece) -> Iterator[tuple[str, tuple[Tensor, Tensor, Tensor]]]:
    """Those of each layer of a small scBERT in some cells."""
    cells = of_variable_genes(read_cells(piece, DATASET), piece.size.n_genes)
    loaded = load_model(pretrained(piece, "performer", [written(cells, piece, "cells")]), "AutoModel")
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for name, module in loaded.model.named_modules():
            if name.endswith(("q_proj", "k_proj", "v_proj")):

                def look(module: Any, inputs: Any, output: Tensor, name: str = name) -> None:
                    seen[name] = output.detach()

                stack.callback(module.register_forward_hook(look).remove)
        embedding(cells[:N_CELLS].copy(), loaded.model, loaded.processor)
    for layer in dict.fromkeys(name.rpartition(".")[0] for name in seen):
        # tensors of inference mode cannot be recomputed
        parts = [seen[f"{layer}.{one}_proj"].clone() for one in "qkv"]
        heads = [one.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for one in parts]
        yield f"layer {layer.split('.')[1]}", tuple(heads)


@torch.no_grad()
def _errors(query: Tensor, key: Tensor, value: Tensor, seed: int) -> dict[str, float]:
    """Method -> Frobenius norm of its error, divided by that of what queries read exactly."""
    exact = torch.nn.functional.scaled_dot_product_attention(query, key, value)

    def error(found: Tensor) -> float:
        return float((found.float() - exact).norm() / exact.norm())

    def approximated(n_features: int, *, seed: int = seed, dtype: torch.dtype = torch.float32, **kind: bool) -> Tensor:
        projection = _projection(n_features, torch.Generator().manual_seed(1000 + seed), **kind)
        given = (one.to(dtype) for one in (query, key, value, projection))
        return performer_attention(*given, key_maximum="sequence")

    errors = {BASELINE: error(value.mean(2, keepdim=True).expand_as(value))}
    for n_features in (PUBLISHED, *FEATURES):
        errors[f"{n_features} features, independent"] = error(approximated(n_features, is_orthogonal=False))
        errors[f"{n_features} features, orthogonal"] = error(approximated(n_features))
    errors[f"{FEATURES[-1]} features, orthogonal, bfloat16"] = error(approximated(FEATURES[-1], dtype=torch.bfloat16))
    mean = torch.stack([approximated(PUBLISHED, seed=100 * seed + draw) for draw in range(16)]).mean(0)
    errors[f"{PUBLISHED} features, orthogonal, mean of 16 draws"] = error(mean)
    exact_bfloat16 = torch.nn.functional.scaled_dot_product_attention(*(one.bfloat16() for one in (query, key, value)))
    errors["exact, bfloat16"] = error(exact_bfloat16)
    return errors


def _projection(n_features: int, generator: torch.Generator, *, is_orthogonal: bool = True) -> Tensor:
    if is_orthogonal:
        return orthogonal_random_features(n_features, HEAD_DIM, generator=generator)
    return torch.randn(n_features, HEAD_DIM, generator=generator)


def report(found: Found) -> Page:
    """A table for each setting, and the errors against the number of features."""
    page, panels = Page([], [], {}, {}), {}
    for setting, seeds in found.items():
        runs = [one["errors"] for one in seeds.values()]
        kinds, lines = list(runs[0]), {}
        values = {kind: {name: [one[kind][name] for one in runs] for name in runs[0][kind]} for kind in kinds}
        rows = [[name, *(_ranged(values[kind][name]) for kind in kinds)] for name in values[kinds[0]]]
        note = f"Relative errors of what queries read; mean (lowest to highest) of {len(runs)} seeds."
        page.tables.append(Table(setting, ["attention", *kinds], rows, note))
        page.answers += [_answer(setting, kind, values[kind]) for kind in kinds]
        for kind in kinds:
            ends = [values[kind][f"{n_features} features, orthogonal"] for n_features in FEATURES]
            lines[kind] = np.array([FEATURES, *(np.stack([f(one) for one in ends]) for f in (np.mean, min, max))])
        panels[f"features ({setting})", "relative error"] = lines
        page.numbers[setting] = values
    page.figures["features"] = (
        plot_lines(panels, log=True)[0].figure,
        "Relative error of orthogonal features against their number, mean and range over seeds.",
    )
    return page


def _ranged(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _answer(setting: str, kind: str, values: dict[str, list[float]]) -> str:
    """How many features it takes to be nearer to exact attention than the mean of the values is."""
    baseline = min(values[BASELINE])
    enough = [one for one in FEATURES if max(values[f"{one} features, orthogonal"]) < baseline]
    most = f"{FEATURES[-1]} features, orthogonal"
    told = (
        f"from {enough[0]} orthogonal features on nearer to exact attention than the mean of the values is"
        if enough
        else f"with up to {FEATURES[-1]} orthogonal features not reliably nearer to exact attention than the mean of "
        "the values is"
    )
    return f"{setting}, {kind}: {told} (error {np.mean(values[BASELINE]):.3f}; {most}: {np.mean(values[most]):.3f})."


EXPERIMENT = Experiment(
    name="performer",
    title="The Performer's attention beside exact attention",
    question="How near is attention by random features to softmax attention, what do orthogonal features, more of "
    "them, fresh draws and bfloat16 change, and where does it fail?",
    datasets=(DATASET,),
    settings=("random", "trained"),
    run=run,
    report=report,
    methods=(
        f"`random`: queries and keys of {HEAD_DIM} normal entries of several deviations, {N_TOKENS} tokens, {N_HEADS} "
        "heads. The larger the deviation, the more of a query's attention goes to single keys.",
        f"`trained`: queries, keys and values of each layer of a small scBERT, trained on masked values, in {N_CELLS} "
        "cells.",
        f"{PUBLISHED} features are as many as published for heads of {HEAD_DIM}: `int(head_dim * log(head_dim))`. "
        f"`{BASELINE}` is what queries read that attend to all keys alike. `mean of 16 draws` is what redrawing "
        "features averages to, if it could be averaged.",
        "Speed and memory of the released size: [performer.json](../../benchmarks/results/performer.json), by "
        "`benchmarks/performer.py`.",
    ),
)
