"""Judges the cells that a small Llama writes: are they genes, are they of the type asked for, is expression told?"""

from collections.abc import Callable

import anndata
import numpy as np
import torch
from cell_text_cases import LABEL, Case
from cell_text_intervals import interval

from sclm_hf import CellCorpus
from sclm_hf.evaluation.text_metrics import (
    expression_distances,
    gene_scores,
    levenshtein_distances,
    neighbour_accuracy,
    neighbour_purity,
    reconstruction_scores,
)
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.collation import ConversationCollator
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.language_models import small_language_model
from sclm_hf.text.rendering import context_size, prompt_ids
from sclm_hf.text.sentences import (
    cell_sentences,
    expression_from_sentences,
    fit_ranks,
    gene_words,
    log10_normalize,
    rank_pairs,
)
from sclm_hf.training.loop import train

K = 5
"""Real cells of the group held out that vote for the type of a written one."""


def generation(case: Case) -> dict[str, dict[str, dict[str, float]]]:
    """Method -> measure -> mean and interval over cells, of cells written by a model and of three references.

    The references are as many real cells of the other groups, the same with labels of other cells, and for each label
    the genes with the highest mean in it, which knows no variation.
    """
    cells, n_genes = case.train, case.settings["genes"]
    wanted = np.repeat(case.labels, case.settings["written_cells"])
    real = [one for label in case.labels for one in drawn(cells, label, case.settings["written_cells"], case.seed)]
    shown = cell_sentences(cells.X, cells.var_names, n_genes=n_genes, case="upper")
    copies = [shown[row] for row in real]
    shuffled = np.random.default_rng(case.seed).permutation(wanted)
    means = {label: mean_sentence(cells, label, n_genes) for label in case.labels}
    words = gene_words(list(cells.var_names))
    judge = Judge(case, words, n_genes)
    found = {
        "written": judge(written(case, words, wanted), wanted),
        "real cells of the other groups": judge(copies, wanted),
        "real cells with labels of others": judge(copies, shuffled),
        "mean of each label": judge([means[label] for label in wanted], wanted),
    }
    found["sentences of the cells to test"] = reconstruction(case, words)
    return found


def drawn(cells: anndata.AnnData, label: str, n: int, seed: int) -> list[int]:
    """Rows of cells of a label, with repetition where there are too few."""
    rows, random = np.flatnonzero(cells.obs[LABEL] == label), np.random.default_rng(seed)
    return random.choice(rows, n, replace=len(rows) < n).tolist()


def mean_sentence(cells: anndata.AnnData, label: str, n_genes: int) -> str:
    """The genes with the highest mean among the cells of a label."""
    means = np.asarray(log10_normalize(cells[cells.obs[LABEL] == label].X).mean(axis=0))
    return cell_sentences(means, cells.var_names, n_genes=n_genes)[0]


def written(case: Case, words: list[str], wanted: np.ndarray) -> list[str]:
    """Cells of the wanted labels that a Llama writes, trained on the cells of the other groups; tokens are drawn."""
    n_genes = case.settings["genes"]
    processor = sentence_processor(list(case.train.var_names), n_genes)
    corpus = CellCorpus(case.folder / "train.h5ad", processor, label_column=LABEL, seed=case.seed)
    model, tokenizer = small_language_model(
        words, case.labels, tasks=("generate",), other_words=["human"], seed=case.seed
    )
    conversations = Conversations(corpus, "generate", tokenizer=tokenizer)
    collator = ConversationCollator(conversations, tokenizer, max_length=context_size(model.config))
    train(model, corpus, collator, case.config(), processor=tokenizer)
    model.eval()
    template, found = conversations.templates[0], []
    prompts = [
        [{"role": "user", "content": template.render_prompt(cell_type=one, organism="human", n_genes=n_genes)}]
        for one in wanted
    ]
    torch.manual_seed(case.seed)
    for start in range(0, len(prompts), 64):
        ids = prompt_ids(tokenizer, prompts[start : start + 64])
        inputs = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            answers = model.generate(**inputs, max_new_tokens=n_genes, do_sample=True, top_k=0)
        answers = answers[:, inputs["input_ids"].shape[1] :]
        found += tokenizer.batch_decode(answers, skip_special_tokens=True)
    return found


class Judge:
    """Compares sentences with real cells of the group held out."""

    def __init__(self, case: Case, words: list[str], n_genes: int) -> None:
        self.words, self.labels = words, case.test.obs[LABEL].to_numpy(str)
        self.line = fit_ranks(*rank_pairs(log10_normalize(case.train.X), case.train.var_names))
        self.sentences = cell_sentences(case.test.X, case.test.var_names, n_genes=n_genes)
        self.expression = self._expression(self.sentences)
        self.means = np.stack([self._mean(case.test, label) for label in case.labels])
        self.names = case.labels

    def __call__(self, sentences: list[str], wanted: np.ndarray) -> dict[str, dict[str, float]]:
        """Measures of sentences whose cells should have some labels."""
        expression = self._expression(sentences)
        far = {
            "expression": expression_distances(expression, self.expression),
            "Levenshtein": levenshtein_distances(sentences, self.sentences),
        }
        within = {
            "expression": expression_distances(expression, expression),
            "Levenshtein": levenshtein_distances(sentences, sentences),
        }
        measures: dict[str, Callable[[np.ndarray], float]] = {
            "valid genes": lambda rows: gene_scores([sentences[row] for row in rows], self.words).valid,
            "unique genes": lambda rows: gene_scores([sentences[row] for row in rows], self.words).unique,
            "Pearson of the means of labels": lambda rows: self._agreement(expression[rows], wanted[rows]),
        }
        for name, distances in far.items():
            measures[f"kNN label agreement, {name}"] = lambda rows, distances=distances: neighbour_accuracy(
                distances[rows], self.labels, wanted[rows], k=K
            )
        found = {name: interval(measure, len(sentences)) for name, measure in measures.items()}
        for name, distances in within.items():
            # a cell drawn twice would be its own neighbour
            found[f"kNN purity among themselves, {name}"] = {"mean": neighbour_purity(distances, wanted, k=K)}
        return found

    def _expression(self, sentences: list[str]) -> np.ndarray:
        line = {"slope": self.line.slope, "intercept": self.line.intercept}
        return expression_from_sentences(sentences, self.words, **line).toarray()

    def _mean(self, cells: anndata.AnnData, label: str) -> np.ndarray:
        own = log10_normalize(cells[cells.obs[LABEL] == label].X)
        # a label that no cell has is left out of the agreement
        return np.asarray(own.sum(axis=0)).ravel() / max(own.shape[0], 1)

    def _agreement(self, expression: np.ndarray, wanted: np.ndarray) -> float:
        """Correlation of mean written expression with the mean of real cells, averaged over labels."""
        found = []
        for label, mean in zip(self.names, self.means, strict=True):
            own = expression[wanted == label]
            if len(own) and own.mean(axis=0).std() > 0 and mean.std() > 0:
                found.append(np.corrcoef(own.mean(axis=0), mean)[0, 1])
        return float(np.mean(found or [0.0]))


def reconstruction(case: Case, words: list[str]) -> dict[str, dict[str, float]]:
    """How well whole sentences of the cells to test tell their expression, by a line fitted to the other groups."""
    line = fit_ranks(*rank_pairs(log10_normalize(case.train.X), case.train.var_names))
    true = log10_normalize(case.test.X)
    told = expression_from_sentences(
        cell_sentences(case.test.X, case.test.var_names), words, slope=line.slope, intercept=line.intercept
    )
    expressed = true.astype(bool)
    pairs = [
        (true[row, expressed[row].indices].toarray()[0], told[row, expressed[row].indices].toarray()[0])
        for row in range(true.shape[0])
        if expressed[row].nnz
    ]

    def score(rows: np.ndarray, name: str) -> float:
        chosen = [pairs[row] for row in rows]
        return getattr(reconstruction_scores(*(np.concatenate(part) for part in zip(*chosen, strict=True))), name)

    return {
        name: interval(lambda rows, name=name: score(rows, name), len(pairs), n_resamples=50)
        for name in ("r_squared", "pearson_r", "spearman_r")
    }
