import pytest
import torch

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.next_gene import NextGeneCollator

from .objective_cells import IGNORED, PAD, cells, rows


def test_labels_are_the_tokens_after_the_first():
    batch = cells()
    output = NextGeneCollator(pad_token_id=PAD)(batch)
    assert set(output) == {"input_ids", "expression_values", "attention_mask", "labels"}
    ids, labels = output["input_ids"], output["labels"]
    real = torch.as_tensor(batch["attention_mask"]).bool()
    assert torch.equal(ids, torch.as_tensor(batch["input_ids"]))
    assert (labels[:, 0] == IGNORED).all() and (labels[~real] == IGNORED).all()
    assert torch.equal(labels[:, 1:][real[:, 1:]], ids[:, 1:][real[:, 1:]])
    assert (batch["input_ids"][:, 0] != IGNORED).all()


def test_a_cell_has_the_same_labels_in_any_batch():
    batch, ours = cells(), NextGeneCollator(pad_token_id=PAD)
    some = ours(rows(batch, [7, 3]), epoch=2)
    assert torch.equal(some["labels"], ours(batch)["labels"][[7, 3]])
    singles = ours([{name: values[3] for name, values in batch.items()}])
    assert torch.equal(singles["labels"], ours(batch)["labels"][[3]])


def test_needs_an_encoding_that_ranks():
    tokenizer = GeneTokenizer.from_genes(["TP53"], special_tokens=("<pad>", "<cls>", "<eos>"))
    processor = CellProcessor(ExpressionFeatureExtractor.for_family("tgpt"), tokenizer)
    assert NextGeneCollator.from_processor(processor, seed=3).seed == 3
    binned = CellProcessor(ExpressionFeatureExtractor.for_family("scgpt"), tokenizer)
    with pytest.raises(ConfigurationError, match="encoding 'bins' has none"):
        NextGeneCollator.from_processor(binned)
