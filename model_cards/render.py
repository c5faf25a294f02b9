"""Render one card a family from the package: `python model_cards/render.py`."""

from pathlib import Path

from sclm_hf import FAMILIES
from sclm_hf.hub.card import CardFacts, render_card

FOLDER = Path(__file__).parent


def family_card(name: str) -> str:
    """The card of a family: what it is, how to use it, under which licence; no checkpoint's numbers."""
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
    return str(render_card(facts))


if __name__ == "__main__":
    for name in FAMILIES:
        (FOLDER / f"{name}.md").write_text(family_card(name) + "\n", encoding="utf-8")
