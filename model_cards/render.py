"""Render one card a family from the package and from stored measurements: `python model_cards/render.py`.

`python model_cards/parity.py` makes the numbers of the tables of parity, which lie in `parity.json`.
"""

import json
from pathlib import Path
from typing import Any

from sclm_hf import FAMILIES
from sclm_hf.cards import render
from sclm_hf.evaluation.reports import ResultsTable
from sclm_hf.hub.card import CardFacts, render_card
from sclm_hf.registry import Family

FOLDER = Path(__file__).parent
RESULTS = FOLDER.parent / "benchmarks" / "results"
NOT_EVALUATED = "## Evaluation\n\nThis checkpoint has not been evaluated by `sclm_hf`.\n"
RECIPE = "--variants model twin pool --recipe pretrain_{}_small.yaml --targets symphony citeseq kang"
SIX_TARGETS = "--recipe pretrain_scgpt_small.yaml --targets symphony kang citeseq balf retina heart"
EVALUATED = {
    "cellplm": ("evidence", ""),
    "geneformer": ("evidence_geneformer", RECIPE.format("geneformer")),
    "scgpt": ("evidence_scgpt", f"--variants model twin pool {SIX_TARGETS}"),
    "tgpt": ("evidence_tgpt", RECIPE.format("tgpt")),
}
"""Families whose small models were compared with simple methods: the stored results, and the flags that make them."""
COST = {
    "weights": ("weights", "{:,.0f} million"),
    "encode": ("counts to tokens", "{:,.0f} cells a second"),
    "embed_float32": ("embedding in float32", "{:,.3g} cells a second"),
    "embed_bfloat16": ("embedding in bfloat16", "{:,.3g} cells a second"),
    "embed_memory": ("peak of embedding, above the process before it", "{:,.0f} MB"),
    "lora_memory": ("peak of a step of a LoRA, above the process before it", "{:,.0f} MB"),
}


def family_card(name: str) -> str:
    """The card of a family: what it is, how it was ported, how near it is, what it takes, what it was worth."""
    family = FAMILIES[name]
    origin = "No released checkpoint ships with the package: convert one with `sclm-hf convert`."
    if not family.source_layout:
        origin = f"There are no released checkpoints: fit one with `sclm-hf finetune --model_name_or_path {name}`."
    facts = CardFacts(
        title=family.title,
        family=name,
        license=family.weights_license,
        license_name=family.weights_license_name,
        license_link=family.weights_license_link,
        license_note=family.weights_license_note,
        summary=f"The family {family.title} in `sclm_hf`; converted checkpoints carry cards of their own.",
        model="path/to/converted/checkpoint",
        settings={f"released: {size}": description for size, description in family.sizes.items()},
        limits=[family.cells, origin],
    )
    card, sections = str(render_card(facts)), render("family", **_measured(name, family))
    assert NOT_EVALUATED in card
    return card.replace(NOT_EVALUATED, sections.rstrip() + "\n")


def _measured(name: str, family: Family) -> dict[str, Any]:
    parity = json.loads((FOLDER / "parity.json").read_text(encoding="utf-8"))
    cost = json.loads((RESULTS / "families.json").read_text(encoding="utf-8"))["families"].get(name, {})
    file, flags = EVALUATED.get(name, ("", ""))
    return {
        "name": name,
        "convert": family.source_layout,
        "weights_from": family.weights_from,
        "parity": [_row(one) for one in parity.get(name, ())],
        "versions": parity["versions"],
        "cost": [(title, text.format(cost[key])) for key, (title, text) in COST.items() if key in cost],
        "tables": [_results(file)] if file else [],
        "other": ", `pool` a linear map in the encoder's place" if name in ("cellplm", "scgpt") else "",
        "file": file,
        "command": " ".join(filter(None, ["python benchmarks/evidence.py", flags, f"--output {file}.json"])),
    }


def _row(one: dict[str, Any]) -> tuple[str, str, str, str, str]:
    difference = "exact" if one["exact"] and not one["difference"] else f"{one['difference']:.1e}"
    return one["what"], f"{one['arrays']:,}", f"{one['numbers']:,}", difference, f"{one['largest']:.2g}"


def _results(file: str) -> tuple[list[str], list[list[str]]]:
    """A column for each data set, a row for each method."""
    targets = json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))["targets"]
    scores = {
        target: {
            one.method: one.text
            for one in ResultsTable.from_dict(found["table"]).results
            if (one.metric, one.unit, one.reference) == ("macro_f1", "cells", None)
        }
        for target, found in targets.items()
    }
    methods = list(dict.fromkeys(method for column in scores.values() for method in column))
    return ["", *scores], [[method, *(column.get(method, "") for column in scores.values())] for method in methods]


if __name__ == "__main__":
    for name in FAMILIES:
        (FOLDER / f"{name}.md").write_text(family_card(name) + "\n", encoding="utf-8")
