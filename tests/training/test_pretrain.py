import pytest

from sclm_hf import CellProcessor, ExpressionFeatureExtractor
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.new_models import new_tokenizer
from sclm_hf.training.arguments import parse_arguments
from sclm_hf.training.pretrain import create_collator
from sclm_hf.training.settings.pretrain import PretrainArguments


def collator(family, *flags):
    genes = [f"GENE{number}" for number in range(10)]
    processor = CellProcessor(ExpressionFeatureExtractor.for_family(family), new_tokenizer(family, genes))
    (arguments,) = parse_arguments((PretrainArguments,), ["--family", family, *flags])
    return create_collator(arguments, processor)


@pytest.mark.parametrize(
    ("family", "objective", "published"),
    [
        ("scgpt", "generative", (0.25, 0.5, 0.75)),
        ("scgpt", "masked", 0.4),
        ("scbert", "masked", 0.15),
        ("geneformer", "masked_genes", 0.15),
        ("iseeek", "masked_genes", 0.15),
    ],
)
def test_mask_ratio_is_that_of_the_user_or_the_published_one(family, objective, published):
    assert collator(family, "--objective", objective).mask_ratio == published
    assert collator(family, "--objective", objective, "--mask_ratio", "0.3").mask_ratio == (0.3,)
    several = collator(family, "--objective", objective, "--mask_ratio", "0.1", "0.7", "--ratio_per", "cell")
    assert (several.mask_ratio, several.ratio_per) == ((0.1, 0.7), "cell")


@pytest.mark.parametrize(("family", "objective"), [("tgpt", "next_gene"), ("scfoundation", "read_depth")])
def test_mask_ratio_is_refused_where_it_has_no_meaning(family, objective):
    collator(family, "--objective", objective)
    with pytest.raises(ConfigurationError, match=f"'{objective}' has no `mask_ratio`"):
        collator(family, "--objective", objective, "--mask_ratio", "0.3")


def test_second_pass_can_be_left_out():
    assert collator("scgpt").second_pass_after == 1000
    assert collator("scgpt", "--second_pass_after", "-1").second_pass_after is None
