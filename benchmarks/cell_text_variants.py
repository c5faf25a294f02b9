"""How each variant of `cell_text.py` is trained, and what it says of the cells held out.

Each takes a `Case` and returns method -> (test cells, labels) log-probabilities.
"""

import argparse
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import anndata
import evidence
import numpy as np
import torch
from cell_text_cases import LABEL, Case
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sclm_hf import CellCorpus, embed
from sclm_hf.evaluation.baselines.linear import PCALogisticRegression, ZScoredLogisticRegression
from sclm_hf.text.answer_logits import answers_alone
from sclm_hf.text.candidates import CandidateScorer, fit_temperature
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.collation import ConversationCollator
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.language_models import small_language_model
from sclm_hf.text.reasoning import RuleReasoner
from sclm_hf.text.rendering import context_size, prompt_ids
from sclm_hf.text.retrieval import Document, Index, with_evidence
from sclm_hf.text.rules import axiom_rules
from sclm_hf.tokenization.encodings.keys import hash_names
from sclm_hf.training.align import align
from sclm_hf.training.finetune import finetune
from sclm_hf.training.finetune_cell_text import QUESTIONS, finetune_cell_text
from sclm_hf.training.finetune_text import finetune_text
from sclm_hf.training.loop import train
from sclm_hf.training.settings.align import AlignArguments
from sclm_hf.training.settings.cell_text import CellTextArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.text import TextArguments

Scores = dict[str, np.ndarray]
Row = dict[str, Any]
Change = Callable[[Sequence[Row]], list[Row]]

K = 5
"""Neighbours that are evidence."""

BATCH = 64
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
MOST_REASONING = 96
"""Tokens of reasoning that are generated."""


def baselines(case: Case) -> Scores:
    """PCA and z-scored logistic regression on all cells of the other groups."""
    cells, found = anndata.concat([case.train, case.held_out]), {}
    for name, model in (("PCA + LR", PCALogisticRegression()), ("z-scored LR", ZScoredLogisticRegression())):
        model.fit(cells.X, cells.obs[LABEL])
        found[name] = model.predict_log_proba(case.test.X)[:, [list(model.classes).index(one) for one in case.labels]]
    return found


def probe(case: Case) -> Scores:
    """A probe on the pre-trained CellPLM, alone and with the partners that are saved with it."""
    finetune(case.data, FinetuneArguments(encoder(case, "cellplm"), LABEL, head="probe"), case.config())
    kinds = {"CellPLM, probe alone": False, "CellPLM, probe with partners": True}
    return {name: case.annotated(partners=partners) for name, partners in kinds.items()}


def text(case: Case) -> Scores:
    """A small Llama that reads the names of genes."""
    reads = TextArguments(text=True, n_genes=case.settings["genes"])
    finetune_text(case.data, FinetuneArguments("small", LABEL, head="full", partners=False), reads, case.config())
    return {"text": case.annotated()}


def smollm2(case: Case) -> Scores:
    """SmolLM2 with a LoRA, which reads few genes, one token each."""
    reads = TextArguments(text=True, n_genes=case.settings["smollm2_genes"], gene_tokens=True)
    steps = case.settings["max_steps"] or case.settings["smollm2_steps"]
    start = FinetuneArguments(case.settings["smollm2"], LABEL, head="lora", partners=False)
    finetune_text(case.data, start, reads, case.config(max_steps=steps))
    return {"SmolLM2": case.annotated()}


def discrete(case: Case) -> Scores:
    """A small Llama that reads code words of a pre-trained scGPT, and a logistic regression on what is behind them."""
    folder = encoder(case, "scgpt")
    reads = TextArguments(text=True, cell_tokens=folder)
    finetune_text(case.data, FinetuneArguments("small", LABEL, head="full", partners=False), reads, case.config())
    learned, tested = (embed(cells, folder, key_added="X").obsm["X"] for cells in (case.train, case.test))
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    behind = regression.fit(learned, case.train.obs[LABEL]).predict_log_proba(tested)
    return {"code words": case.annotated(), "LR on the embeddings behind them": behind}


def soft(case: Case) -> Scores:
    """A small Llama that reads soft tokens of the pre-trained CellPLM."""
    words = [word for question in QUESTIONS for word in question.format(organism="human").replace(":", " ").split()]
    language = str(case.folder / "language")
    for part in small_language_model(
        [], case.labels, tasks=(), other_words=[word.strip(".,?") for word in words], seed=case.seed
    ):
        part.save_pretrained(language)
    reads = CellTextArguments(cell_model=encoder(case, "cellplm"), projector_epochs=case.settings["projector_epochs"])
    finetune_cell_text(
        case.data, FinetuneArguments(language, LABEL, head="full", partners=False), reads, case.config()
    )
    return {"soft tokens": case.annotated()}


def dual(case: Case) -> Scores:
    """The pre-trained CellPLM and a small text encoder in a shared space, with a description of each label."""
    descriptions = case.folder / "descriptions.json"
    descriptions.write_text(json.dumps(case.data_set.descriptions))
    align(case.data, AlignArguments(encoder(case, "cellplm"), LABEL, labels=str(descriptions)), case.config())
    return {"shared space": case.annotated(labels=case.data_set.descriptions)}


def retrieval(case: Case) -> Scores:
    """As `text`, with the labels of neighbours of other groups in the prompt: those found, and those of another cell.

    Neighbours are found by the embeddings of the pre-trained CellPLM among the cells to learn from.
    """
    folder = encoder(case, "cellplm")
    parts = (case.train, case.held_out, case.test)
    embedded = [embed(cells, folder, key_added="X").obsm["X"] for cells in parts]
    groups = [cells.obs[case.data_set.group].astype(str).to_list() for cells in parts]
    index = Index.build(embedded[0], case.train.obs[LABEL].to_list(), groups=groups[0])
    found: dict[int, list[Document]] = {}
    for cells, vectors, own in zip(parts, embedded, groups, strict=True):
        found |= zip(ids_of(cells), index.search(vectors, groups=own, k=K), strict=True)
    tested = ids_of(case.test)
    others = dict(zip(tested, np.random.default_rng(case.seed).permutation(tested).tolist(), strict=True))

    def with_neighbours(rows: Sequence[Row], cell_of: Callable[[int], int] = lambda cell: cell) -> list[Row]:
        return [{**row, "prompt": with_evidence(row["prompt"], found[cell_of(row["cell_id"])])} for row in rows]

    example = with_neighbours([{"cell_id": tested[0], "prompt": [{"role": "user", "content": ""}]}])
    words = [word.strip("():,.") for word in example[0]["prompt"][0]["content"].split()]
    learned = Learned.from_rows(case, with_neighbours, filter(None, words))
    votes = np.array([[sum(one.label == label for one in found[cell]) for label in case.labels] for cell in tested])
    return {
        "text + retrieval": learned.judged(with_neighbours),
        "text + retrieval, of another cell": learned.judged(
            with_neighbours, functools.partial(with_neighbours, cell_of=others.__getitem__)
        ),
        "vote of the neighbours": np.log((votes + 0.1) / (votes + 0.1).sum(axis=1, keepdims=True)),
    }


def reasoning(case: Case) -> Scores:
    """As `text`, which first says which published rules about markers speak for and against types.

    Traces whose answer is right are learnt from; other cells have an answer without one. The label is chosen by its
    likelihood after the reasoning that is generated.
    """
    # why a rule holds would be most of the words
    rules = [dataclasses.replace(rule, reason="") for rule in axiom_rules()]
    reasoner = RuleReasoner(rules, names=case.data_set.rules)
    traces: dict[str, Any] = {}

    def traced(sentence: str) -> Any:
        if sentence not in traces:
            traces[sentence] = reasoner.trace([sentence], case.labels)
        return traces[sentence]

    def with_traces(rows: Sequence[Row]) -> list[Row]:
        return [{**row, "completion": [{"role": "assistant", "content": answered(row)}]} for row in rows]

    def answered(row: Row) -> str:
        trace = traced(row["sentence"])
        right = trace.labels == (row["label"],)
        return trace.text if right else f"<think></think>\n<answer>{row['label']}</answer>"

    words = [
        word.strip("(),.:")
        for label in case.labels
        for rule in reasoner.rules_of(label)
        for word in [*rule.genes, *rule.source.split()]
    ]
    said = "and speaks for contradicts So it is No rule a candidate not ruled out"
    words += said.split()
    learned = Learned.from_rows(case, with_traces, filter(None, words), tags=True)
    chosen = [traced(sentence).labels[0] for sentence in learned.sentences("test")]
    alone = np.array([[label == one for label in case.labels] for one in chosen]) * 0.9 + 0.1 / len(case.labels)
    return {"text + reasoning": learned.judged(list, reasons=True), "rules alone": np.log(alone)}


@dataclasses.dataclass
class Learned:
    """A small Llama that learned from conversations that were changed before."""

    case: Case
    model: Any
    tokenizer: Any
    cells: Any

    @classmethod
    def from_rows(cls, case: Case, change: Change, words: Iterable[str], *, tags: bool = False) -> "Learned":
        """Train one.

        Args:
            case: the cells.
            change: changes conversations, which also have the `sentence` of their cell.
            words: what is written in them besides genes, labels and wordings.
            tags: whether answers have the tags of reasoning.
        """
        cells = sentence_processor(list(case.train.var_names), case.settings["genes"])
        corpus = CellCorpus(case.folder / "train.h5ad", cells, label_column=LABEL, seed=case.seed)
        genes = Conversations(corpus, "annotate").words.words
        model, tokenizer = small_language_model(genes, case.labels, other_words=["human", *words], seed=case.seed)
        if tags:
            tokenizer.add_tokens(list(TAGS))
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        learned = cls(case, model, tokenizer, cells)
        conversations = Changed(corpus, "annotate", tokenizer=tokenizer, change=change)
        collator = ConversationCollator(conversations, tokenizer, max_length=context_size(model.config))
        train(model, corpus, answers_alone(collator, model), case.config(), processor=tokenizer)
        model.eval()
        return learned

    def sentences(self, part: str) -> list[str]:
        """(cells,) sentences, in the order of the file."""
        return [row["sentence"] for row in self._rows(part)]

    def judged(self, change: Change, of_test: Change | None = None, *, reasons: bool = False) -> np.ndarray:
        """(test cells, labels) log-probabilities, at the temperature that the cells held out ask for.

        Args:
            change: changes conversations.
            of_test: changes those about the cells to test, if differently.
            reasons: let the model reason first.
        """
        held_out = [self.case.labels.index(row["label"]) for row in self._rows("held_out")]
        temperature = fit_temperature(self._scores(change, "held_out", reasons), held_out)
        return log_softmax(self._scores(of_test or change, "test", reasons) / temperature, axis=1)

    def _scores(self, change: Change, part: str, reasons: bool) -> np.ndarray:
        rows, scorer, found = change(self._rows(part)), CandidateScorer(self.model, self.tokenizer), []
        answers = [self.tokenizer(label, add_special_tokens=False)["input_ids"] for label in self.case.labels]
        most = context_size(self.model.config) - MOST_REASONING - len(TAGS)
        for start in range(0, len(rows), BATCH):
            ids = prompt_ids(self.tokenizer, [row["prompt"] for row in rows[start : start + BATCH]], most=most)
            found.append(scorer.of_tokens(self._reasoned(ids) if reasons else ids, answers).numpy())
        return np.concatenate(found)

    def _reasoned(self, prompts: list[list[int]]) -> list[list[int]]:
        """The prompts with the reasoning that the model writes, up to the answer."""
        think, think_end, answer, _ = self.tokenizer.convert_tokens_to_ids(list(TAGS))
        inputs = self.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        ends = [answer, self.tokenizer.eos_token_id]
        with torch.inference_mode():
            written = self.model.generate(**inputs, max_new_tokens=MOST_REASONING, do_sample=False, eos_token_id=ends)
        found = []
        for prompt, ids in zip(prompts, written[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
            said = ids[: next((place for place, one in enumerate(ids) if one in ends), len(ids))]
            said = [one for one in said if one not in (think, think_end, self.tokenizer.pad_token_id)]
            found.append([*prompt, think, *said, think_end, answer])
        return found

    def _rows(self, part: str) -> list[Row]:
        corpus = CellCorpus(
            self.case.folder / f"{part}.h5ad",
            self.cells,
            label_column=LABEL,
            label_names=self.case.labels,
            shuffle=False,
            seed=self.case.seed,
        )
        conversations = Changed(corpus, "annotate", tokenizer=self.tokenizer)
        asked = {"template": conversations.templates[0].name}
        return [
            {**row, "prompt": conversations.prompt(row["sentence"]), **asked}
            for batch in corpus.batches(BATCH)
            for row in conversations.rows(batch)
        ]


class Changed(Conversations):
    """Conversations with the `sentence` of their cell, changed as a function says."""

    def __init__(self, *given: Any, change: Change = list, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.change = change

    def rows(self, batch: dict[str, np.ndarray], epoch: int = 0) -> list[Row]:
        sentences = self.words.sentences(batch)
        return self.change(
            [{**row, "sentence": one} for row, one in zip(super().rows(batch, epoch), sentences, strict=True)]
        )


def ids_of(cells: anndata.AnnData) -> list[int]:
    """(cells,) the `cell_id` of their conversations."""
    return hash_names(list(cells.obs_names)).view(np.int64).tolist()


def encoder(case: Case, family: str) -> str:
    """The folder of a small encoder that `evidence.py` pre-trains, unless it is there, without the data set."""
    arguments = argparse.Namespace(
        recipe=f"pretrain_{family}_small.yaml", folder=Path(case.settings["encoders"]), targets=[]
    )
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return str(evidence.train(case.data_set.target, "model", case.seed, arguments))
