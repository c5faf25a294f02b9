"""How long verbs take on two cores: cells through a model, scIB's scores, and an index of a million cells.

    SCLM_DATA=FOLDER python benchmarks/tasks.py --output benchmarks/results/tasks.json

- `embed`, `annotate`, `map`: 10,000 cells of 2,000 variable genes, by a model of the size of the first Geneformer (6
  layers of 256, 10 million parameters) with random weights, from an AnnData and a saved checkpoint to the result.
  Goal: 2 minutes in bfloat16. `map` reads the index of 5,000 other cells.
- `scib`: `evaluate` of one embedding of 10,000 cells of three batches, beside PCA and Harmony. Goal: 3 minutes.
- `index`: the 15 nearest of 1,000,000 cells for 1,000 queries, of 512 numbers each, in memory. Goal: 2 seconds with
  faiss, 20 without. `approximate` makes its lists when the index is written, and reads them at the first
  query. `model`: cells between those of a model,
  with noise; `isotropic`: normal numbers, among which nothing is near, and no method can rule anything out.

Cells are those of a file of real ones, drawn with replacement, with 80 % of the counts of each drawn anew. Each
measurement has a process of its own; those that the output holds are kept unless `--again` is said. `seconds` are wall
time, `cpu_seconds` those of both cores together, and `load_before` tells how busy they were with other things. It
needs `pip install ".[all,integration,text]"`.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse
import torch
from machine import describe_machine

import sclm_hf
from sclm_hf.cell_index import BACKENDS, CellIndex, directions, read_cells
from sclm_hf.errors import SclmWarning
from sclm_hf.evaluation.baselines.baseline import log1p_cp10k
from sclm_hf.tokenization.expression_matrix import select_counts
from sclm_hf.versions import package_versions

FILES = {"cells": "kang_ifnb_2k.h5ad", "batches": "pbmc_3tech_symphony_1200.h5ad"}
DTYPES = ("bfloat16", "float32")
SIZES = {
    "vocab_size": 25_426,
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
}
N_CELLS, N_GENES, N_REFERENCE, N_LABELS = 10_000, 2_000, 5_000, 10
N_INDEXED, N_QUERIES, SIZE, N_NEIGHBOURS = 1_000_000, 1_000, 512, 15


def resampled(file: str, n_cells: int, seed: int, n_genes: int | None = None) -> anndata.AnnData:
    """Cells drawn with replacement, 80 % of the counts of each, of the most variable genes."""
    source, random = anndata.read_h5ad(Path(os.environ["SCLM_DATA"]) / file), np.random.default_rng(seed)
    counts = scipy.sparse.csr_matrix(select_counts(source)[0], dtype=np.float32)
    genes = np.arange(counts.shape[1])
    if n_genes is not None:
        values = log1p_cp10k(counts)
        variances = values.power(2).mean(axis=0).A1 - np.square(values.mean(axis=0).A1)
        genes = np.sort(np.argsort(-variances, kind="stable")[:n_genes])
    rows = random.integers(source.n_obs, size=n_cells)
    drawn = counts[:, genes][rows]
    drawn.data = random.binomial(drawn.data.astype(np.int64), 0.8).astype(np.float32)
    drawn.eliminate_zeros()
    kept = np.asarray(drawn.sum(axis=1)).ravel() > 0
    obs = source.obs.iloc[rows[kept]].copy()
    obs.index = [f"cell {seed} {number}" for number in range(len(obs))]
    return anndata.AnnData(drawn[kept], obs=obs, var=source.var.iloc[genes].copy())


def save_model(genes: list[str], folder: Path) -> int:
    """Save a classifier with random weights; how many parameters it has."""
    torch.manual_seed(0)
    others = [f"OTHER{number}" for number in range(SIZES["vocab_size"] - len(genes) - 2)]
    tokenizer = sclm_hf.GeneTokenizer.from_genes([*genes, *others], special_tokens=("<pad>", "<mask>"))
    longest = SIZES["max_position_embeddings"]
    extractor = sclm_hf.ExpressionFeatureExtractor.for_family(
        "geneformer", max_length=longest, add_cls=False, add_eos=False
    )
    config = sclm_hf.GeneformerConfig(**SIZES, num_labels=N_LABELS)
    model = sclm_hf.GeneformerForSequenceClassification(config)
    model.save_pretrained(folder)
    sclm_hf.CellProcessor(extractor, tokenizer).save_pretrained(folder)
    return sum(one.numel() for one in model.parameters())


def timed(run) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measure_verb(n_cells: int, verb: str, dtype: str) -> dict:
    cells = resampled(FILES["cells"], n_cells, 0, N_GENES)
    facts = {"n_cells": cells.n_obs, "genes_per_cell": float(np.diff(cells.X.indptr).mean())}
    with tempfile.TemporaryDirectory() as folder:
        facts["n_parameters"] = save_model(list(cells.var_names), Path(folder) / "model")
        model, settings = str(Path(folder) / "model"), {"dtype": dtype}
        if verb == "map":
            settings["index"] = Path(folder) / "index"
            reference = resampled(FILES["cells"], N_REFERENCE, 1)[:, cells.var_names].copy()
            reference.obs["label"] = (np.arange(reference.n_obs) % N_LABELS).astype(str)
            sclm_hf.map(cells[:20], model, reference=reference, label_key="label", **settings)
        return {**facts, **timed(lambda: getattr(sclm_hf, verb)(cells, model, **settings))}


def measure_scib(n_cells: int) -> dict:
    cells = resampled(FILES["batches"], n_cells, 0)
    components = np.linalg.svd(log1p_cp10k(cells.X[:, :2000]).toarray(), full_matrices=False)[0][:, :30]
    cells.obsm["X_test"] = components
    settings = {"embedding": "X_test", "batch_key": "batch", "label_key": "cell_type"}
    found = timed(lambda: sclm_hf.evaluate(cells, **settings))
    return {"n_cells": cells.n_obs, "n_embeddings": 3, **found}


def vectors(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The indexed cells and the queries."""
    random = np.random.default_rng(0)
    if kind == "isotropic":
        drawn = random.standard_normal((N_INDEXED + N_QUERIES, SIZE), dtype=np.float32)
    else:
        cells = resampled(FILES["batches"], 500, 0)
        tokenizer = sclm_hf.GeneTokenizer.from_genes(list(cells.var_names))
        torch.manual_seed(0)
        config = sclm_hf.ScGPTConfig(
            vocab_size=tokenizer.gene_vocabulary.size,
            hidden_size=SIZE,
            intermediate_size=SIZE,
            num_hidden_layers=2,
            pad_token_id=tokenizer.pad_token_id,
            cls_token_id=tokenizer.cls_token_id,
        )
        processor = sclm_hf.CellProcessor(sclm_hf.ExpressionFeatureExtractor.for_family("scgpt"), tokenizer)
        found = sclm_hf.embed(cells, sclm_hf.ScGPTModel(config).eval(), processor).obsm["X_scgpt"]
        pairs = random.integers(len(found), size=(2, N_INDEXED + N_QUERIES))
        share = 0.3 * random.random((N_INDEXED + N_QUERIES, 1), dtype=np.float32)
        drawn = found[pairs[0]] * (1 - share) + found[pairs[1]] * share
        noise = 0.1 * found.std(axis=0).mean() * random.standard_normal((20_000, SIZE), dtype=np.float32)
        drawn += noise[random.integers(len(noise), size=len(drawn))]
    drawn = directions(drawn)
    # cells of a file are seldom in random order
    order = np.argsort(drawn[:N_INDEXED, 0])
    return drawn[:N_INDEXED][order], drawn[N_INDEXED:]


def measure_index(_: int, kind: str, backend: str) -> dict:
    cells, queries = vectors(kind)
    names = np.arange(N_INDEXED).astype(str).astype(object)
    labels = np.array(["a", "b"], object)[np.arange(N_INDEXED) % 2]
    with tempfile.TemporaryDirectory() as folder:
        index = CellIndex(cells, labels, names, backend=backend)
        written = timed(lambda: index.write(Path(folder), {"format": "benchmark"}))
        read = timed(lambda: read_cells(Path(folder)))
        # as another process finds it
        index = CellIndex(cells, labels, names, backend=backend, folder=Path(folder))
        first, again = (timed(lambda: index.nearest(queries, N_NEIGHBOURS)) for _ in range(2))
    without = {}
    if backend == "approximate":
        unkept = CellIndex(cells, labels, names, backend=backend)
        without["first query without kept lists"] = timed(lambda: unkept.nearest(queries, N_NEIGHBOURS))
        del unkept
    rows, _ = index.nearest(queries[:100], N_NEIGHBOURS)
    every = queries[:100].astype(np.float64) @ cells.T
    kth = np.partition(every, -N_NEIGHBOURS, axis=1)[:, -N_NEIGHBOURS]
    found = np.take_along_axis(every, rows, axis=1)
    return {
        "write": written,
        "read": read,
        "first query": first,
        **without,
        **again,
        "recall": float((found >= kth[:, None] - 1e-6).mean()),
        "coordinates": int(index._fronts.cells.shape[1]),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


MEASUREMENTS = {
    **{f"{verb} {dtype}": (measure_verb, verb, dtype) for verb in ("embed", "annotate", "map") for dtype in DTYPES},
    "scib": (measure_scib,),
    **{
        f"index {kind} {backend}": (measure_index, kind, backend)
        for kind in ("model", "isotropic")
        for backend in BACKENDS
    },
}


def run_alone(name: str, n_cells: int) -> dict:
    """Measure in a process of its own."""
    before = os.getloadavg()[0]
    command = [sys.executable, __file__, "--inside", name, "--n-cells", str(n_cells)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return {**json.loads(done.stdout.splitlines()[-1]), "load_before": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", default=list(MEASUREMENTS), choices=MEASUREMENTS, metavar="NAME")
    parser.add_argument("--again", action="store_true", help="measure those too that the output holds")
    parser.add_argument("--output", type=Path, default=Path("tasks.json"))
    parser.add_argument("--n-cells", type=int, default=N_CELLS, help="fewer where there is no time for all")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        warnings.simplefilter("ignore", SclmWarning)
        torch.set_num_threads(2)
        measure, *given = MEASUREMENTS[arguments.inside]
        print(json.dumps(measure(arguments.n_cells, *given)))
        return
    report = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"benchmark": "tasks"}
    report["versions"] = package_versions("torch", "numpy", "faiss-cpu", "scib-metrics", "harmonypy")
    found = report.setdefault("measurements", {})
    for name in arguments.measure:
        if arguments.again or "seconds" not in found.get(name, {}):
            found[name] = {**run_alone(name, arguments.n_cells), "machine": describe_machine()}
            print(name, found[name], flush=True)
            arguments.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
