import pytest
import torch

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.errors import ConfigurationError
from sclm_hf.objectives.gene_classification import GeneClassificationCollator

TOKENS = {"<pad>": 0, "<mask>": 1, "<cls>": 2, "<eos>": 3, "A": 4, "B": 5, "C": 6, "D": 9}


def collator(**settings):
    tokenizer = GeneTokenizer.from_genes(TOKENS, special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"))
    processor = CellProcessor(ExpressionFeatureExtractor.for_family("geneformer"), tokenizer)
    return GeneClassificationCollator.from_processor(processor, **settings)


def test_genes_get_their_class_and_everything_else_is_ignored():
    ids = torch.tensor([[2, 6, 4, 9, 3], [2, 5, 3, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "cell_ids": torch.arange(2)}
    inputs = collator(classes={"low": ["A", "unknown"], "high": ["B", "C"]})(batch)
    assert inputs["labels"].tolist() == [[-100, 1, 0, -100, -100], [-100, 1, -100, -100, -100]]
    assert set(inputs) == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(inputs["input_ids"], ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": {"low": ["A"], "high": ["A"]}}, "`A` is in two classes"),
        ({"classes": {"low": ["unknown"]}}, "at least one gene"),
        ({"gene_classes": {4: -1}}, "counted from 0"),
    ],
)
def test_classes_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        collator(**settings)
