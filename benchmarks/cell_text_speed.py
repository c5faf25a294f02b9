"""How fast cells become sentences, and how fast a language model chooses a label, each beside the other way to do it.

- `sentences`: whole cells as sentences, beside `cell2sentence` from the registry, which runs as a process of its own.
- `real_sentences`: real cells as sentences of all of their genes, and of the 100 that models are trained with.
- `annotation`: one of 20 labels by likelihood, beside other ways to get it (see `cell_text_choosing.py`).

Both sides take turns, and CPU seconds are compared, so that other work on the machine slows both alike.

    SCLM_DATA=../shared/data python benchmarks/cell_text_speed.py --peer VENV/bin/python \
        --output benchmarks/results/cell_text_speed.json
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import torch
from cell_text_choosing import N_LABELS, N_SHOWN, Choosing, compared, cpu_seconds
from machine import describe_machine

from sclm_hf.text.sentences import cell_sentences

DATA = Path(os.environ.get("SCLM_DATA", "../shared/data")) / "h5ad"
REAL = ("pbmc_3tech_symphony_1200.h5ad", "kang_ifnb_2k.h5ad", "covid_balf_liao.h5ad")


def make_cells(n_cells: int, n_genes: int, n_expressed: int) -> anndata.AnnData:
    """Counts that are mostly ones with a long tail; a label raises genes of its own."""
    random = np.random.default_rng(0)
    labels = np.arange(n_cells) % N_LABELS
    rows = np.repeat(np.arange(n_cells), n_expressed)
    columns = np.concatenate([random.choice(n_genes, n_expressed, replace=False) for _ in range(n_cells)])
    values = 1 + random.negative_binomial(0.5, 0.15, len(rows)).astype(np.float32)
    values[(columns % N_LABELS == labels[rows]) & (columns < 2000)] += 20
    counts = scipy.sparse.csr_matrix((values, (rows, columns)), (n_cells, n_genes))
    obs = pd.DataFrame({"label": labels}, index=[f"cell {cell}" for cell in range(n_cells)])
    return anndata.AnnData(counts, obs, pd.DataFrame(index=[f"GENE{gene}" for gene in range(n_genes)]))


def sentences(cells: anndata.AnnData, peer: str, rounds: int) -> dict:
    """CPU seconds of both ways, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        cells.write_h5ad(f"{folder}/cells.h5ad")
        script = Path(__file__).with_name("peer_cell2sentence.py")
        process = subprocess.Popen(
            [peer, str(script), f"{folder}/cells.h5ad"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while process.stdout.readline().strip() != "ready":
            pass
        names = list(cells.var_names)
        cell_sentences(cells.X, names)
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(cpu_seconds(lambda: cell_sentences(cells.X, names)))
            process.stdin.write("\n")
            process.stdin.flush()
            theirs.append(float(process.stdout.readline().split()[0]))
        process.stdin.close()
        process.wait()
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    return {
        "cells": cells.n_obs,
        "genes_per_cell": int(cells.X.nnz / cells.n_obs),
        "sclm_hf_cells_per_cpu_second": round(cells.n_obs / min(ours)),
        "cell2sentence_cells_per_cpu_second": round(cells.n_obs / min(theirs)),
        "times_faster": compared(ratios, 10),
    }


def real_sentences(rounds: int) -> dict:
    """Cells per CPU second of each data set, by how many of its genes a cell keeps."""
    return {file: rates_of(anndata.read_h5ad(DATA / file), rounds) for file in REAL}


def rates_of(cells: anndata.AnnData, rounds: int) -> dict:
    """Cells per CPU second, the median and the best of all rounds."""
    counts, names = scipy.sparse.csr_matrix(cells.X), list(cells.var_names)
    found = {"cells": cells.n_obs, "genes_per_cell": counts.nnz // cells.n_obs}
    for what, n_genes in (("all genes", None), (f"{N_SHOWN} genes", N_SHOWN)):
        seconds = [cpu_seconds(lambda n=n_genes: cell_sentences(counts, names, n_genes=n)) for _ in range(rounds)]
        rates = {"median": statistics.median(seconds), "best": min(seconds)}
        found[f"cells_per_cpu_second, {what}"] = {one: round(cells.n_obs / spent) for one, spent in rates.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python that has `cell2sentence`; without it sentences are not measured")
    parser.add_argument("--labels", nargs="*", default=["token", "words"], help="kinds of labels to choose among")
    parser.add_argument("--prompts", nargs="*", default=["genes", "code words"], help="what a cell is")
    parser.add_argument("--no_sentences", action="store_true", help="measure annotation alone")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="results are added to those that it holds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    machine = describe_machine()
    result: dict = {} if arguments.no_sentences else {"machine": machine}
    if arguments.peer and not arguments.no_sentences:
        result["sentences"] = sentences(make_cells(arguments.cells, 20_000, 1_650), arguments.peer, arguments.rounds)
    if DATA.exists() and not arguments.no_sentences:
        cell_sentences(make_cells(2, 100, 10).X, [f"GENE{gene}" for gene in range(100)])
        result["real_sentences"] = real_sentences(arguments.rounds)
    cells = make_cells(arguments.cells, 1_000, 200)
    for prompt in arguments.prompts:
        for label in arguments.labels:
            kind = {"words": label == "words", "code_words": prompt == "code words"}
            choosing = Choosing(cells.X, list(cells.var_names), cells.obs["label"].to_numpy(), **kind)
            result[f"annotation, {prompt}, {label}"] = choosing.measured(arguments.rounds) | {"machine": machine}
    print(json.dumps(result, indent=1))
    if arguments.output:
        before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        arguments.output.write_text(json.dumps(before | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
