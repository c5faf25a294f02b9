"""How fast cells become sentences, and how fast a language model chooses a label, each beside the other way to do it.

- `sentences`: whole cells as sentences, beside `cell2sentence` from the registry, which runs as a process of its own.
- `real_sentences`: real cells as sentences of all of their genes, and of the 100 that models are trained with.
- `annotation`: a two-layer Llama with a token per gene chooses one of 20 labels by likelihood, beside the same model
  that generates an answer which is then matched with the labels. It learned for one pass before, so that it
  ends its answers; it names no type better than chance, which changes no speed. Labels are one token each, or
  (`words`) some words each, which generation writes one after the other.

Both read each prompt once, of about 125 tokens. That takes 1.0 of the 1.1 seconds that 300 cells take by likelihood,
and of the 1.3 seconds that they take by generation. As generation keeps what it has read, too, likelihood can save no
more than the writing: 5 times as fast cannot be reached with answers as short as labels.

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
import time
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import torch
from machine import describe_machine

from sclm_hf.text.candidates import CandidateScorer
from sclm_hf.text.language_models import small_language_model
from sclm_hf.text.parsing import closest_label
from sclm_hf.text.rendering import answer_ids, padding_id, prompt_ids
from sclm_hf.text.sentences import cell_sentences
from sclm_hf.text.templates import load_templates

DATA = Path(os.environ.get("SCLM_DATA", "../shared/data")) / "h5ad"
REAL = ("pbmc_3tech_symphony_1200.h5ad", "kang_ifnb_2k.h5ad", "covid_balf_liao.h5ad")
N_LABELS, N_SHOWN, BATCH = 20, 100, 50


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


def annotation(cells: anndata.AnnData, rounds: int, *, words: bool) -> dict:
    """CPU seconds of choosing by likelihood and of generating and matching, in turn."""
    labels = [
        f"kind {number % 5} of line {number // 5} cell" if words else f"type{number}" for number in range(N_LABELS)
    ]
    genes, template = list(cells.var_names), load_templates("annotate").train[0]
    other = {"other_words": ["human", "kind", "of", "line", "cell"]}
    model, tokenizer = small_language_model(genes, [] if words else labels, **other)
    texts = cell_sentences(cells.X, genes, n_genes=N_SHOWN)
    prompts = [
        [{"role": "user", "content": template.render_prompt(sentence=text, organism="human", n_genes=N_SHOWN)}]
        for text in texts
    ]
    gold = [labels[number] for number in cells.obs["label"]]
    train(model, tokenizer, prompts, gold)
    scorer, longest = (
        CandidateScorer(model, tokenizer),
        max(len(answer_ids(tokenizer, prompts[0], one)) for one in labels),
    )

    def constrained() -> list[str]:
        parts = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        return [labels[row] for part in parts for row in scorer.log_likelihoods(part, labels).argmax(dim=1).tolist()]

    found: dict = {"cells": len(prompts), "labels": N_LABELS, "tokens_of_an_answer": longest}
    chosen = constrained()
    found["accuracy_by_likelihood"] = round(float(np.mean([a == b for a, b in zip(chosen, gold, strict=True)])), 3)
    for name, most in (("as_many_tokens_as_needed", longest), ("at_most_64_tokens", 64)):
        written = generated(model, tokenizer, prompts, labels, most)
        right = [a == b for a, b in zip(written, gold, strict=True)]
        ratios = []
        for _ in range(rounds):
            ours = cpu_seconds(constrained)
            ratios.append(cpu_seconds(lambda most=most: generated(model, tokenizer, prompts, labels, most)) / ours)
        found[name] = {
            "accuracy": round(float(np.mean(right)), 3),
            "no_label": written.count(None),
            "times_slower": compared(ratios, 5),
        }
        found["cells_per_cpu_second_by_likelihood"] = round(len(prompts) / ours)
    return found


def train(model, tokenizer, prompts: list, gold: list[str]) -> None:
    """One pass over the cells."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    asked = prompt_ids(tokenizer, prompts)
    model.train()
    for start in range(0, len(asked), 20):
        rows = [
            (asked[i], answer_ids(tokenizer, prompts[i], gold[i])) for i in range(start, min(start + 20, len(asked)))
        ]
        width = max(len(prompt) + len(answer) for prompt, answer in rows)
        fill = padding_id(tokenizer)
        ids = torch.tensor([[*p, *a, *[fill] * (width - len(p) - len(a))] for p, a in rows])
        labels = torch.tensor([[*[-100] * len(p), *a, *[-100] * (width - len(p) - len(a))] for p, a in rows])
        mask = torch.tensor([[1] * (len(p) + len(a)) + [0] * (width - len(p) - len(a)) for p, a in rows])
        model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


def generated(model, tokenizer, prompts: list, labels: list[str], most: int) -> list[str | None]:
    """The label of each generated answer, None where it is none."""
    found = []
    for start in range(0, len(prompts), BATCH):
        asked = prompt_ids(tokenizer, prompts[start : start + BATCH])
        inputs = tokenizer.pad({"input_ids": asked}, padding_side="left", return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=most, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        found += [closest_label(one, labels) for one in tokenizer.batch_decode(written, skip_special_tokens=True)]
    return found


def cpu_seconds(work) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    work()
    return time.process_time() - started


def compared(ratios: list[float], goal: float) -> dict:
    """Ratios of all rounds, with the goal."""
    middle = statistics.median(ratios)
    return {
        "median": round(middle, 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
        "goal": goal,
        "reached": middle >= goal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python that has `cell2sentence`; without it sentences are not measured")
    parser.add_argument("--labels", nargs="*", default=["token", "words"], help="kinds of labels to choose among")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="results are added to those that it holds")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = {"machine": describe_machine()}
    if arguments.peer:
        result["sentences"] = sentences(make_cells(arguments.cells, 20_000, 1_650), arguments.peer, arguments.rounds)
    if DATA.exists():
        cell_sentences(make_cells(2, 100, 10).X, [f"GENE{gene}" for gene in range(100)])
        result["real_sentences"] = real_sentences(arguments.rounds)
    for kind in arguments.labels:
        cells = make_cells(arguments.cells, 1_000, 200)
        result[f"annotation_{kind}"] = annotation(cells, arguments.rounds, words=kind == "words")
    print(json.dumps(result, indent=1))
    if arguments.output:
        before = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
        arguments.output.write_text(json.dumps(before | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
