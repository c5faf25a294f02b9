"""Text models through transformers' `pipeline("decision")`: the question and the labels, as that pipeline reads them.

The pipeline gives a probability to each option from the logits of one token, so every label must be one token, and the
tokenizer must have a chat template. Its options are then the labels themselves, and its prompt is ours.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import write_text
from .closed_set import Candidates, answers_of
from .neutral import neutralise
from .rendering import answer_ids, prompt_text
from .templates import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SETTINGS_FILE, _TEMPLATE_FILE = "decision.json", "decision_template.jinja"

# stand for what the pipeline fills in, and occur in no prompt
_SENTENCE, _N_GENES = "\ue000", "\ue001"

_REFUSAL = (
    "{%- if question.type != 'choice' or question.options != question.labels -%}{{ raise_exception('Ask one question "
    "of the type `choice`, and give as `criteria` the first labels of `decision.json`, in their order.') }}"
    "{%- endif -%}"
)


def save_decision(folder: str | Path, tokenizer: "PreTrainedTokenizerBase", candidates: Candidates) -> bool:
    """Write beside a model what `pipeline("decision", folder)` needs to choose among its labels.

    Example:

        >>> decide = pipeline("decision", "my_text_annotator")  # doctest: +SKIP
        >>> question = {"type": "choice", "criteria": dict.fromkeys(["B cell", "T cell"])}  # doctest: +SKIP
        >>> decide({"state": "CD3D TRAC IL7R", "questions": {"type": question}})  # doctest: +SKIP

    Args:
        folder: folder of the model.
        tokenizer: its tokenizer.
        candidates: its question and labels.

    Returns:
        Whether it was written; not where a label is more than a token, or there is no chat template.
    """
    labels = answers_of(candidates.labels, tokenizer)
    if tokenizer.chat_template is None or not _are_tokens(tokenizer, labels):
        return False
    template = _REFUSAL + _template(tokenizer, candidates)
    settings = {"labels": {"choice": labels}, "temperature": {"choice": candidates.temperature}}
    folder = Path(folder)
    write_text(folder / _TEMPLATE_FILE, template)
    write_text(folder / _SETTINGS_FILE, json.dumps(settings, indent=2) + "\n")
    return True


def _are_tokens(tokenizer: "PreTrainedTokenizerBase", labels: list[str]) -> bool:
    """Whether each label is one token, and alone as well as after a prompt the same."""
    question = [{"role": "user", "content": "?"}]
    ids = tokenizer(labels, add_special_tokens=False)["input_ids"]
    said = [answer_ids(tokenizer, question, label)[:1] for label in labels]
    known = [one for one in ids if len(one) == 1 and one[0] != tokenizer.unk_token_id]
    return said == ids == known and len({one[0] for one in known}) == len(labels)


def _template(tokenizer: "PreTrainedTokenizerBase", candidates: Candidates) -> str:
    """The prompt as a template of jinja, with `state` as the sentence of the cell."""
    asked = Template("the prompt", candidates.prompt, "").render_prompt(
        sentence=_SENTENCE, n_genes=_N_GENES, organism=neutralise(candidates.organism, tokenizer)
    )
    system = [] if candidates.system is None else [{"role": "system", "content": candidates.system}]
    text = prompt_text(tokenizer, [*system, {"role": "user", "content": asked}])
    filled = {_SENTENCE: "{{ state }}", _N_GENES: "{{ state.split(' ')|length }}"}
    return "".join(filled.get(part) or _literal(part) for part in _split(text))


def _split(text: str) -> list[str]:
    """A text cut before and after what stands for something else."""
    for mark in (_SENTENCE, _N_GENES):
        text = text.replace(mark, f"\0{mark}\0")
    return [part for part in text.split("\0") if part]


def _literal(text: str) -> str:
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
