import json

import pytest
from transformers import AutoFeatureExtractor

import sclm_hf
from sclm_hf import ExpressionFeatureExtractor
from sclm_hf.errors import ConfigurationError
from sclm_hf.tokenization.feature_extraction_expression import parameter_names


def test_scgpt_as_published():
    extractor = ExpressionFeatureExtractor.for_family("scgpt")
    assert extractor.family == "scgpt"
    assert (extractor.encoding, extractor.expects, extractor.n_bins, extractor.max_length) == (
        "bins",
        "counts",
        51,
        1200,
    )
    assert (extractor.cls_value, extractor.pad_value, extractor.mask_value) == (-2.0, -2.0, -1.0)
    assert extractor.model_input_names == ["input_ids", "expression_values", "attention_mask"]


def test_every_family_has_published_parameters():
    for name, family in sclm_hf.FAMILIES.items():
        assert ExpressionFeatureExtractor.for_family(name).family == name
        assert set(family.encoding) <= set(parameter_names())


def test_saved_and_found_by_auto_feature_extractor(tmp_path):
    extractor = ExpressionFeatureExtractor(
        encoding="rank", truncation="head", gene_medians={"TP53": 1.5, "HLA-A": 3}, max_length=7, add_eos=True
    )
    extractor.save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is ExpressionFeatureExtractor
    assert loaded.to_dict() == extractor.to_dict()
    assert loaded.model_input_names == ["input_ids", "attention_mask"]
    assert set(parameter_names()) == set(extractor.to_dict()) - {"feature_extractor_type"}


def test_unknown_parameters_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no parameter `bins`: expected some of family.*n_bins"):
        ExpressionFeatureExtractor(bins=51)
    saved = ExpressionFeatureExtractor().to_dict() | {"binz": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(saved))
    with pytest.raises(ConfigurationError, match="no parameter `binz`"):
        ExpressionFeatureExtractor.from_pretrained(tmp_path)
    with pytest.raises(ConfigurationError, match=r"no family `nope`: expected one of .*scgpt"):
        ExpressionFeatureExtractor.for_family("nope")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"encoding": "bin"}, "`encoding`.*one of 'bins', 'chromosomes', .*; got 'bin'"),
        ({"expects": "raw"}, "`expects`.*'counts', 'normalized', 'any'"),
        ({"truncation": None}, "`truncation`.*'sample', 'head'"),
        ({"n_bins": "51"}, "`n_bins`.*whole number, at least 2; got '51'"),
        ({"n_bins": 1}, "`n_bins`"),
        ({"n_bins": True}, "`n_bins`"),
        ({"max_length": 1}, "`max_length`.*at least 2 with these special tokens"),
        ({"max_length": 2, "add_eos": True}, "at least 3"),
        ({"max_length": 10.0}, "`max_length`"),
        ({"add_cls": 1}, "`add_cls`.*True, False; got 1"),
        ({"pad_value": float("nan")}, "`pad_value`.*finite"),
        ({"cls_value": "0"}, "`cls_value`"),
        ({"target_sum": 0}, "`target_sum`.*positive"),
        ({"family": 3}, "`family`"),
        ({"encoding": "rank"}, "top ranks: `truncation` must be 'head'"),
        ({"encoding": "rank", "truncation": "head", "include_zero_genes": True}, "`include_zero_genes` must be False"),
        ({"gene_medians": {"A": 1.0}}, "`gene_medians` is for the encoding `rank`"),
        ({"encoding": "rank", "truncation": "head", "gene_medians": {"A": 0.0}}, "`gene_medians`.*positive numbers"),
    ],
)
def test_wrong_parameters_are_refused(parameters, message):
    with pytest.raises(ConfigurationError, match=message):
        ExpressionFeatureExtractor(**parameters)
