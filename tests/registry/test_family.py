"""What a family's file says goes together with the classes that it names."""

import dataclasses
import inspect

import pytest

import sclm_hf
from sclm_hf.objectives import PRETRAINING
from sclm_hf.registry import FAMILIES, get_family
from sclm_hf.tokenization.feature_extraction_expression import parameter_names

EACH_FAMILY = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)


def test_a_name_leads_to_its_family():
    assert all(family.name == name for name, family in FAMILIES.items())
    with pytest.raises(sclm_hf.errors.ConfigurationError, match=r"no family `scgtp`: expected one of .*scgpt"):
        get_family("scgtp")


@EACH_FAMILY
def test_masking_is_of_the_objectives_of_the_family(family):
    assert set(family.objectives) <= set(PRETRAINING)
    assert bool(family.objectives) != bool(family.no_objective)
    for objective, settings in family.masking.items():
        assert objective in family.objectives
        assert set(settings) <= set(inspect.signature(PRETRAINING[objective]).parameters)


@EACH_FAMILY
def test_a_family_is_built_on_the_model_that_its_configuration_derives_from(family):
    bases = getattr(sclm_hf, family.config).__mro__[1:]
    assert next((base.model_type for base in bases if getattr(base, "model_type", "")), None) == family.built_on


@EACH_FAMILY
def test_an_encoding_tells_settings_that_the_configuration_has(family):
    known = {field.name for field in dataclasses.fields(getattr(sclm_hf, family.config))}
    assert set(family.told_by_encoding) <= known
    assert set(family.told_by_encoding.values()) <= set(parameter_names())
