"""Somebody who knows transformers, from README alone: Auto classes, a pipeline, stock peft, rows of a data set.

`python tests/walks/transformers_user.py CELLS.h5ad`, from the folder of the repository.
"""

import sys

import anndata
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoProcessor, pipeline

import sclm_hf

MODEL = "model_cards/checkpoints/scgpt-blood-small"


def main(file: str) -> None:
    """The walk."""
    cells = anndata.read_h5ad(file)[:24].copy()
    model, processor = AutoModel.from_pretrained(MODEL).eval(), AutoProcessor.from_pretrained(MODEL)
    batch = processor(cells, return_tensors="pt")
    print({name: tuple(tensor.shape) for name, tensor in batch.items()})
    with torch.no_grad():
        embedding = model(**batch).cell_embedding
    # the verb takes the same weights to the same numbers
    of_verb = torch.tensor(sclm_hf.embed(cells, MODEL).obsm["X_scgpt"])
    assert torch.nn.functional.cosine_similarity(embedding, of_verb).min() > 0.999
    frame = cells.to_df()
    assert torch.equal(processor(frame, return_tensors="pt")["input_ids"], batch["input_ids"])
    print(pipeline("cell-type-annotation", model=MODEL)(cells[:3].copy()))
    try:
        pipeline("feature-extraction", model=MODEL)(cells)
    except Exception as error:
        assert "cell-embedding" in str(error), error
        print(f"feature-extraction: {error}")
    adapted = get_peft_model(model, LoraConfig(r=4))
    adapted.print_trainable_parameters()
    before = adapted.get_nb_trainable_parameters()[0]
    assert before > 0


if __name__ == "__main__":
    main(*sys.argv[1:])
