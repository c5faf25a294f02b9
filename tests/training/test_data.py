"""Which cells a run trains on and evaluates on."""

import re
import warnings

import numpy as np
import pytest
import yaml

from sclm_hf import CellCorpus
from sclm_hf.corpora.augmentation import Augmentation
from sclm_hf.errors import ConfigurationError, CorpusError, SclmWarning
from sclm_hf.opening.tiny import make_processor as make_processor_of
from sclm_hf.training.arguments import TrainingConfig, parse_arguments
from sclm_hf.training.data import open_corpora
from sclm_hf.training.settings.data import DataArguments

from ..corpora.conftest import GENES, make_cells, make_processor


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two files of 60 cells of ten donors each, five of them the same; donors of one tissue each."""
    folder = tmp_path_factory.mktemp("donors")
    for number, name in enumerate(("one", "two")):
        cells = make_cells(60, number)
        del cells.obs["donor"]
        cells.obs["Donor_ID"] = [f"d{row // 6 + 5 * number}" for row in range(60)]
        cells.obs["tissue"] = [("blood", "lung", "skin")[row // 6 % 3] for row in range(60)]
        cells.obs["batch"] = [f"b{row % 2}" for row in range(60)]
        cells.write_h5ad(folder / f"{name}.h5ad")
    return folder


def values(corpus, column):
    """The values that the cells of a corpus have in a column."""
    found = set()
    for index, source in enumerate(corpus.sources):
        stored, rows = source.column(column), corpus.rows_at(index, np.arange(corpus.sizes[index]))
        found |= {stored.categories[code] for code in stored.codes[rows]}
    return found


def cells_of(corpus):
    return {number for batch in corpus.batches(64) for number in batch["cell_ids"].tolist()}


def test_donors_are_held_out_whole_on_the_side_that_their_name_says(folder, processor):
    data = DataArguments([str(folder)], eval_share=0.3, split_by="Donor_ID")
    corpus, held_out = open_corpora(data, processor)
    assert not values(corpus, "Donor_ID") & values(held_out, "Donor_ID")
    same = CellCorpus(folder, processor, split="validation", split_by="Donor_ID", validation_share=0.3, shuffle=False)
    assert cells_of(held_out) == cells_of(same) and len(corpus) + len(held_out) == 120


def test_whole_files_are_held_out(folder, processor):
    # the places of these names are 0.31 and 0.15
    corpus, held_out = open_corpora(DataArguments([str(folder)], eval_share=0.2, split_by="dataset"), processor)
    assert sorted([corpus.sizes, held_out.sizes]) == [[0, 60], [60, 0]]


def test_cells_held_out_at_random_warn_of_shared_donors_and_batches(folder, processor):
    data = DataArguments([str(folder)], eval_share=0.3)
    with pytest.warns(SclmWarning, match=r"obs\['Donor_ID'\]` \(and of batch\).*--split_by Donor_ID.*split_by=cell"):
        warned = open_corpora(data, processor)
    data.split_by = "cell"
    with warnings.catch_warnings():
        warnings.simplefilter("error", SclmWarning)
        asked_for = open_corpora(data, processor)
        open_corpora(DataArguments([str(folder)], eval_share=0.3, where=["Donor_ID=d0", "batch=b0"]), processor)
    assert [cells_of(one) for one in warned] == [cells_of(one) for one in asked_for]


def test_a_column_of_labels_is_no_group(folder, processor):
    data = DataArguments([str(folder)], eval_share=0.3)
    with pytest.warns(SclmWarning, match=r"obs\['batch'\]` have") as caught:
        open_corpora(data, processor, label_column="Donor_ID")
    assert len(caught) == 1


@pytest.mark.parametrize(("share", "held_out"), [(0.01, "none"), (0.99, "all")])
def test_a_share_that_leaves_a_side_empty_says_which_would_not(folder, processor, share, held_out):
    data = DataArguments([str(folder / "one.h5ad")], eval_share=share, split_by="Donor_ID")
    with pytest.raises(ConfigurationError, match=f"holds out {held_out} of the 10 values") as told:
        open_corpora(data, processor)
    data.eval_share = float(re.search(r"an `eval_share` of (\S+) holds out the first", str(told.value))[1])
    assert len(values(open_corpora(data, processor)[1], "Donor_ID")) == 1


def test_the_only_donor_is_not_split(folder, processor):
    data = DataArguments([str(folder)], eval_share=0.5, split_by="Donor_ID", where=["Donor_ID=d3"])
    with pytest.raises(ConfigurationError, match=r"of the 1 values.*`eval_files`"):
        open_corpora(data, processor)


@pytest.mark.parametrize(
    "where",
    [
        ["tissue=blood", "tissue=lung", "batch=b0"],
        ['{"tissue": {"not": "skin"}, "batch": "b0"}'],
        {"tissue": ["blood", "lung"], "batch": "b0"},
    ],
)
def test_conditions_hold_for_all_cells(folder, processor, where):
    data = DataArguments([str(folder)], eval_files=[str(folder / "two.h5ad")], where=where)
    for corpus in open_corpora(data, processor):
        assert values(corpus, "tissue") == {"blood", "lung"}
        assert values(corpus, "batch") == {"b0"}


def test_conditions_and_splits_come_from_recipes_and_flags(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    settings = {"train_files": ["a.h5ad"], "eval_share": 0.2, "split_by": "donor", "where": {"tissue": ["blood"]}}
    recipe.write_text(yaml.safe_dump(settings))
    types = (DataArguments, TrainingConfig)
    from_recipe, _ = parse_arguments(types, ["--config", str(recipe)])
    assert (from_recipe.split_by, from_recipe.conditions) == ("donor", {"tissue": ["blood"]})
    flags = ["--config", str(recipe), "--split_by", "patient", "--where", "tissue=lung", "sex=female"]
    from_flags, _ = parse_arguments(types, flags)
    assert (from_flags.split_by, from_flags.conditions) == ("patient", {"tissue": ["lung"], "sex": ["female"]})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"split_by": "donor"}, "give `eval_share` too"),
        ({"train_weights": [1.0, 2.0]}, "one entry for each of the 1 entries of `train_files`, got 2"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        DataArguments(["a.h5ad"], **settings)


@pytest.mark.parametrize("where", [["blood"], ["{tissue: blood}"]])
def test_conditions_that_are_none_are_refused(folder, processor, where):
    with pytest.raises(ConfigurationError, match="`where` must be COLUMN=VALUE"):
        open_corpora(DataArguments([str(folder)], where=where), processor)


def test_a_file_without_the_column_is_named(folder, processor):
    with pytest.raises(CorpusError, match=r"one\.h5ad.*patient"):
        open_corpora(DataArguments([str(folder)], eval_share=0.3, split_by="patient"), processor)


def test_weights_give_each_entry_its_share_of_an_epoch(folder, processor):
    files = [str(folder / "one.h5ad"), str(folder / "two.h5ad")]
    data = DataArguments(files, train_weights=[1.0, 3.0], eval_share=0.3, split_by="Donor_ID")
    corpus, held_out = open_corpora(data, processor, label_column="cell_type")
    assert corpus.shares[1] // corpus.shares[0] == 3 and corpus.label_names == held_out.label_names
    assert not values(corpus, "Donor_ID") & values(held_out, "Donor_ID")


def test_samples_are_not_split_by_donors(folder):
    data = DataArguments([str(folder)], eval_share=0.3, split_by="Donor_ID")
    with pytest.raises(ConfigurationError, match=r"`split_by` 'Donor_ID' splits .*one\.h5ad`, `obs\['batch'\]` 'b0'"):
        open_corpora(data, make_processor_of("cellplm", GENES))
    data.batch_column = "Donor_ID"
    assert len(open_corpora(data, make_processor_of("cellplm", GENES))[1].samples)


def test_only_cells_to_train_on_are_augmented(tmp_path):
    make_cells(60).write_h5ad(tmp_path / "cells.h5ad")
    data = DataArguments([str(tmp_path)], eval_share=0.3, split_by="cell", augment='{"thin": [0.2, 0.4]}')
    corpus, held_out = open_corpora(data, make_processor())
    assert corpus.augment == Augmentation(thin=(0.2, 0.4)) and held_out.augment is None
    with pytest.raises(ConfigurationError, match="Unknown setting `thinn` in `augment`"):
        DataArguments([str(tmp_path)], augment='{"thinn": 0.2}')
