"""What a user does with repositories on a Hub, in a process of its own: the client reads its address when imported.

Run as `python -m tests.hub.round_trip RESULTS.json`, with the environment of `hub_folders.client_environment`.
"""

import json
import sys
from pathlib import Path

import torch

import sclm_hf
from sclm_hf.adapters.lora import load_adapter, peft

from ..tasks.tiny import GENES, make_cells


def logits(model, processor) -> list[list[float]]:
    """What a classifier says about the tiny cells."""
    batch = processor(make_cells(), return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "expression_values", "attention_mask")}
    with torch.no_grad():
        return model.eval()(**inputs).logits.tolist()


def load_everything() -> dict:
    """Load model, tokenizer, processor, adapter and shards by their repositories, in every way that users do."""
    import datasets
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer

    processor = AutoProcessor.from_pretrained("me/model")
    model = AutoModelForSequenceClassification.from_pretrained("me/model")
    encoder = AutoModel.from_pretrained("me/model")
    annotated = sclm_hf.annotate(make_cells(), "me/adapter")
    results = {
        "classes": [type(one).__name__ for one in (model, encoder, processor)],
        "labels": model.config.id2label,
        "tokens": AutoTokenizer.from_pretrained("me/model").convert_tokens_to_ids(["<cls>", *GENES]),
        "model": logits(model, processor),
        "sharded": logits(AutoModelForSequenceClassification.from_pretrained("me/model", revision="v2"), processor),
        "load_adapter": logits(load_adapter("me/adapter"), AutoProcessor.from_pretrained("me/adapter")),
        "annotated": annotated.obs["sclm_prediction"].tolist(),
        "revision": annotated.uns["sclm_hf"]["sclm_prediction"]["revision"],
    }
    results["peft"] = logits(peft.PeftModel.from_pretrained(model, "me/adapter"), processor)
    for revision in ("main", "old"):
        cells = datasets.load_dataset("me/cells", streaming=True, split="train", revision=revision)
        results[f"streamed from {revision}"] = [row["cell"] for row in cells]
    results["loaded"] = datasets.load_dataset("me/cells", split="train")["input_ids"][:2]
    return results


def push_as_transformers_does() -> dict:
    """`push_to_hub` of the objects themselves."""
    from transformers import AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer

    processor = AutoProcessor.from_pretrained("me/model")
    AutoModelForSequenceClassification.from_pretrained("me/model").push_to_hub("me/plain", private=True)
    processor.push_to_hub("me/plain")
    processor.tokenizer.push_to_hub("me/tokenizer", revision="mine")
    model = AutoModelForSequenceClassification.from_pretrained("me/plain")
    tokenizer = AutoTokenizer.from_pretrained("me/tokenizer", revision="mine")
    return {
        "plain": logits(model, AutoProcessor.from_pretrained("me/plain")),
        "plain tokens": tokenizer.convert_tokens_to_ids(["<cls>", *GENES]),
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(load_everything() | push_as_transformers_does()))
