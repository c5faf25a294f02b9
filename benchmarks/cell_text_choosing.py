"""How fast a small language model chooses one of 20 labels by likelihood, beside other ways to ask it.

The model is a two-layer Llama that learned for one pass before, so that it ends its answers; it names no type better
than chance, which changes no speed. A cell is the names of 100 genes, a token each (prompts of about 125 tokens), or
eight code words (about 30). Labels are one token each, or some words. The ways:

- `generated, batches of the same size`: the same batches; greedily, and no more tokens than the longest label has;
- `generated, cell by cell`: `model.generate` for each cell, else the same;
- `transformers' pipeline, its defaults`: `pipeline("text-generation")` on all prompts, with nothing set: one prompt at
  a time, and up to 256 tokens that are drawn;
- `each label with the whole prompt`: the likelihood of each label, for which the prompt is read again.

What is written is matched with the labels. Both sides take turns, CPU seconds of one thread are compared per cell, so
that other work on the machine slows both alike; the slow ways are measured on fewer cells.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from sclm_hf.text.answer_logits import answers_alone
from sclm_hf.text.candidates import CandidateScorer
from sclm_hf.text.codebook import Codebook
from sclm_hf.text.language_models import add_cell_tokens, small_language_model
from sclm_hf.text.parsing import closest_label
from sclm_hf.text.rendering import answer_ids, padding_id, prompt_ids
from sclm_hf.text.sentences import cell_sentences
from sclm_hf.text.templates import load_templates

N_LABELS, N_SHOWN, BATCH, FEW, GOAL = 20, 100, 50, 100, 5


class Choosing:
    """A small language model and questions about cells.

    Args:
        counts: (cells, genes).
        genes: their names.
        gold: (cells,) numbers of labels to learn from.
        words: whether labels are some words each; else they are one token each.
        code_words: whether a cell is code words, of embeddings that mean nothing; else it is the names of genes.
    """

    def __init__(self, counts, genes: list[str], gold: np.ndarray, *, words: bool, code_words: bool) -> None:
        self.labels = [
            f"kind {number % 5} of line {number // 5} cell" if words else f"type{number}" for number in range(N_LABELS)
        ]
        task = "annotate_codes" if code_words else "annotate"
        template, other = load_templates(task).train[0], ["human", "kind", "of", "line", "cell"]
        self.model, self.tokenizer = small_language_model(
            [] if code_words else genes, [] if words else self.labels, tasks=(task,), other_words=other
        )
        if code_words:
            embeddings = np.random.default_rng(0).normal(size=(counts.shape[0], 16))
            codebook = Codebook.fit(embeddings)
            add_cell_tokens(self.model, self.tokenizer, codebook)
            texts = codebook.sentences(codebook.encode(embeddings))
        else:
            texts = cell_sentences(counts, genes, n_genes=N_SHOWN)
        shown = {"organism": "human", "n_genes": N_SHOWN}
        self.prompts = [
            [{"role": "user", "content": template.render_prompt(sentence=text, **shown)}] for text in texts
        ]
        self.gold = [self.labels[number] for number in gold]
        self.longest = max(len(answer_ids(self.tokenizer, self.prompts[0], one)) for one in self.labels)
        self._train()

    def measured(self, rounds: int) -> dict:
        """Cells per CPU second by likelihood, and how many times slower the other ways are."""
        likelihood, others = self.by_likelihood, self._other_ways()
        found: dict = {
            "cells": len(self.prompts),
            "labels": N_LABELS,
            "tokens_of_a_prompt": round(
                float(np.mean([len(ids) for ids in prompt_ids(self.tokenizer, self.prompts)]))
            ),
            "tokens_of_an_answer": self.longest,
            "accuracy_by_likelihood": self._accuracy(likelihood(len(self.prompts))),
        }
        for name, (choose, n_cells) in others.items():
            chosen, ratios, rates = choose(n_cells), [], []
            for _ in range(rounds):
                rates.append(len(self.prompts) / cpu_seconds(lambda: likelihood(len(self.prompts))))
                ratios.append(rates[-1] * cpu_seconds(lambda choose=choose, n=n_cells: choose(n)) / n_cells)
            found[name] = {
                "cells": n_cells,
                "accuracy": self._accuracy(chosen),
                "no_label": chosen.count(None),
                "times_slower": compared(ratios, GOAL),
            }
            found["cells_per_cpu_second_by_likelihood"] = round(statistics.median(rates))
        return found

    def by_likelihood(self, n_cells: int) -> list[str]:
        """The likeliest label of the first cells."""
        scorer = CandidateScorer(self.model, self.tokenizer)
        scores = [scorer.log_likelihoods(part, self.labels) for part in self._parts(n_cells, BATCH)]
        return [self.labels[number] for number in torch.cat(scores).argmax(dim=1)]

    def _other_ways(self) -> dict[str, tuple[Callable[[int], list[str | None]], int]]:
        """Way -> (function of a number of cells, that number)."""
        return {
            "generated, batches of the same size": (lambda n: self._generated(n, BATCH), len(self.prompts)),
            "generated, cell by cell": (lambda n: self._generated(n, 1), min(FEW, len(self.prompts))),
            "transformers' pipeline, its defaults": (self._by_pipeline, min(FEW, len(self.prompts))),
            "each label with the whole prompt": (self._label_by_label, min(FEW, len(self.prompts))),
        }

    def _generated(self, n_cells: int, size: int) -> list[str | None]:
        found = []
        for part in self._parts(n_cells, size):
            ids = {"input_ids": prompt_ids(self.tokenizer, part)}
            inputs = self.tokenizer.pad(ids, padding_side="left", return_tensors="pt")
            written = self.model.generate(**inputs, max_new_tokens=self.longest, do_sample=False)
            answers = self.tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            found += [closest_label(one, self.labels) for one in answers]
        return found

    def _by_pipeline(self, n_cells: int) -> list[str | None]:
        from transformers import pipeline

        torch.manual_seed(0)
        generate = pipeline("text-generation", model=self.model, tokenizer=self.tokenizer)
        answers = [one[0]["generated_text"][-1]["content"] for one in generate(self.prompts[:n_cells])]
        return [closest_label(one, self.labels) for one in answers]

    @torch.inference_mode()
    def _label_by_label(self, n_cells: int) -> list[str]:
        found = []
        for prompts in self._parts(n_cells, BATCH):
            scores = []
            for label in self.labels:
                batch = self._batch(prompts, [label] * len(prompts))
                logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                losses = cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:], reduction="none")
                scores.append(-losses.sum(dim=1) / (batch["labels"] != -100).sum(dim=1))
            found += [self.labels[number] for number in torch.stack(scores, dim=1).argmax(dim=1)]
        return found

    def _parts(self, n_cells: int, size: int) -> Iterator[list]:
        for start in range(0, n_cells, size):
            yield self.prompts[start : min(start + size, n_cells)]

    def _accuracy(self, chosen: list[str | None]) -> float:
        return round(float(np.mean([one == gold for one, gold in zip(chosen, self.gold, strict=False)])), 3)

    def _batch(self, prompts: list, answers: list[str]) -> dict[str, torch.Tensor]:
        """Prompts with answers, padded on the right."""
        rows = [
            (ids, answer_ids(self.tokenizer, prompts[0], answer))
            for ids, answer in zip(prompt_ids(self.tokenizer, prompts), answers, strict=True)
        ]
        width, fill = max(len(prompt) + len(answer) for prompt, answer in rows), padding_id(self.tokenizer)
        return {
            "input_ids": torch.tensor([[*p, *a, *[fill] * (width - len(p) - len(a))] for p, a in rows]),
            "attention_mask": torch.tensor([[1] * len(p + a) + [0] * (width - len(p) - len(a)) for p, a in rows]),
            "labels": torch.tensor([[*[-100] * len(p), *a, *[-100] * (width - len(p) - len(a))] for p, a in rows]),
        }

    def _train(self) -> None:
        """One pass over the cells."""
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)
        batch_of = answers_alone(lambda rows, epoch: self._batch(*rows), self.model)
        self.model.train()
        for start in range(0, len(self.prompts), 20):
            rows = slice(start, start + 20)
            self.model(**batch_of((self.prompts[rows], self.gold[rows]), 0)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        self.model.eval()


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
