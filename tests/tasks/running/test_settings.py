from dataclasses import FrozenInstanceError, dataclass

import pytest

from sclm_hf.errors import ConfigurationError
from sclm_hf.tasks.annotate import AnnotateSettings
from sclm_hf.tasks.embed import EmbedSettings
from sclm_hf.tasks.perturb import PerturbSettings
from sclm_hf.tasks.running.settings import RunSettings, flag_of, own_fields_first, setting


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        (RunSettings, {"batch_size": 0}, r"`batch_size` \(`--batch-size`\) must be at least 1 and a whole number"),
        (RunSettings, {"seed": 0.5}, r"`seed` \(`--seed`\) must be a whole number, got 0.5"),
        (AnnotateSettings, {"unassigned_threshold": 2}, r"\(`--unassigned-threshold`\) must lie between 0 and 1"),
        (AnnotateSettings, {"unassigned_threshold": "0.5"}, "must lie between 0 and 1, got '0.5'"),
        (EmbedSettings, {"key_added": "a/b"}, r"`key_added` \(`--key`\) must be a name without `/`"),
        (PerturbSettings, {"max_cells": 0}, r"`max_cells` \(`--max-cells`\) must be at least 1"),
        (PerturbSettings, {"combine": 0}, r"`combine` \(`--combine`\) must be at least 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_flag(settings, given, message):
    with pytest.raises(ConfigurationError, match=message):
        settings(**given)


def test_settings_cannot_be_changed_and_a_limit_that_is_none_is_no_limit():
    with pytest.raises(FrozenInstanceError):
        RunSettings().seed = 1
    assert PerturbSettings(max_cells=None).max_cells is None


def test_a_record_holds_what_results_depend_on():
    recorded = {"layer", "species", "batch_key", "batch_size", "seed"}
    assert set(RunSettings().to_record()) == recorded
    own = {"genes", "evidence", "level", "ontology", "partners", "unassigned_threshold"}
    assert set(AnnotateSettings().to_record()) == recorded | own
    assert PerturbSettings(genes=["A", "B"]).to_record()["genes"] == "A; B"


def test_a_verbs_own_settings_stand_first_and_have_flags():
    @dataclass(frozen=True, kw_only=True)
    class More(RunSettings):
        how_much: int = setting(1, "how much.")
        seed: int = setting(3, "another seed.")
        hidden: int = setting(1, "no flag.", flag=None)

    fields = own_fields_first(More)
    assert [field.name for field in fields][:4] == ["how_much", "seed", "hidden", "layer"]
    assert [flag_of(field) for field in fields][:3] == ["--how-much", "--seed", None] and More().seed == 3
