import numpy as np
import pytest

from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.errors import ConfigurationError, SclmWarning
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.rules import MarkerRule
from sclm_hf.text.templates import TASKS, load_templates

from .small import GENES, make_cells

COLUMNS = ["cell_type", "donor", "treatment", "ic50", "drug", "number"]
SETTINGS = {
    "annotate": {"columns": {"cell_type": "cell_type"}},
    "tissue": {"columns": {"tissue": "donor"}},
    "generate": {"columns": {"cell_type": "cell_type"}},
    "describe": {"columns": {"cell_type": "cell_type", "donor": "donor"}},
    "compare": {"columns": {"cell_type": "cell_type"}, "match": ["donor"]},
    "perturb": {"columns": {"perturbation": "treatment"}, "control": "none", "match": ["cell_type"]},
    "sensitivity": {
        "columns": {"sensitivity": "ic50", "drug": "drug"},
        "bins": {"sensitivity": {"sensitive": 2.0, "resistant": float("inf")}},
    },
    "annotate_codes": {"columns": {"cell_type": "cell_type"}},
    "generate_codes": {"columns": {"cell_type": "cell_type"}},
    "assign": {"columns": {"cell_type": "cell_type"}, "match": ["donor"], "cells": (2, 3)},
}


def make_treated(n_cells: int = 60):
    cells = make_cells(n_cells)
    cells.obs["treatment"] = np.where(np.arange(n_cells) % 4 == 0, "none", "IFNB1 {x}")
    cells.obs["ic50"] = np.arange(n_cells) % 5 * 1.0
    cells.obs["number"] = [f"no. {number}" for number in range(n_cells)]
    cells.obs["drug"] = np.where(np.arange(n_cells) % 2, "cisplatin", "erlotinib")
    return cells


@pytest.fixture(scope="module")
def cells():
    return make_treated()


@pytest.fixture(scope="module")
def corpus(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    # two files, so that other cells lie elsewhere
    cells[:37].copy().write_h5ad(folder / "one.h5ad")
    cells[37:].copy().write_h5ad(folder / "two.h5ad")
    processor = sentence_processor(GENES, 7)
    return CellCorpus(folder, processor, task_columns=COLUMNS, window_size=16, group_size=8, block_size=4)


def rows_of(corpus, task, **changes):
    return list(Conversations(corpus, task, **(SETTINGS[task] | changes)).to_dataset())


def test_a_row_asks_about_a_cell_and_answers_with_its_label(corpus):
    rows = rows_of(corpus, "annotate")
    assert len(rows) == 60 and len({row["cell_id"] for row in rows}) == 60
    for row in rows:
        assert [message["role"] for message in row["prompt"] + row["completion"]] == ["user", "assistant"]
        assert row["completion"][0]["content"] == row["label"]
        assert sum(word.startswith("GENE") for word in row["prompt"][0]["content"].split()) <= 7


def test_wordings_vary_with_cell_and_epoch_and_are_drawn_again_alike(corpus):
    conversations = Conversations(corpus, "annotate", **SETTINGS["annotate"])
    first = {row["cell_id"]: row["template"] for row in conversations.to_dataset()}
    again = {row["cell_id"]: row["template"] for row in conversations.to_dataset()}
    later = {row["cell_id"]: row["template"] for row in conversations.to_dataset(epoch=1)}
    assert first == again != later and len(set(first.values())) > 4


@pytest.mark.parametrize("task", TASKS)
def test_a_stream_resumes_where_it_was(corpus, task):
    whole = rows_of(corpus, task)
    dataset = Conversations(corpus, task, **SETTINGS[task]).to_dataset()
    taken = []
    for row in dataset:
        taken.append(row)
        if len(taken) == 17:
            state = dataset.state_dict()
            break
    resumed = Conversations(corpus, task, **SETTINGS[task]).to_dataset()
    resumed.load_state_dict(state)
    assert taken + list(resumed) == whole


@pytest.mark.parametrize("task", TASKS)
def test_the_question_about_a_cell_is_the_same_in_any_batch_and_order(corpus, task):
    conversations = Conversations(corpus, task, **SETTINGS[task])
    by_size = [
        {row["cell_id"]: row for batch in corpus.batches(size) for row in conversations.rows(batch)} for size in (2, 8)
    ]
    assert by_size[0] == by_size[1] == {row["cell_id"]: row for row in rows_of(corpus, task)}


@pytest.mark.parametrize("task", ["compare", "perturb", "assign"])
def test_workers_draw_the_same_other_cells(corpus, task):
    from torch.utils.data import DataLoader

    dataset = Conversations(corpus, task, **SETTINGS[task]).to_dataset()
    rows = list(DataLoader(dataset, batch_size=None, num_workers=2))
    assert {row["cell_id"]: row for row in rows} == {row["cell_id"]: row for row in rows_of(corpus, task)}


def test_a_cell_of_a_type_is_asked_for(corpus):
    for row in rows_of(corpus, "generate"):
        genes = row["completion"][0]["content"].split()
        assert row["label"] in row["prompt"][0]["content"] and 0 < len(genes) <= 7
        assert f"{len(genes)}" in row["prompt"][0]["content"]


def sentences_by_name(corpus):
    """Sentence -> the cells that have it."""
    words, found, names = Conversations(corpus, "annotate", **SETTINGS["annotate"]).words, {}, {}
    for source in corpus.sources:
        names |= dict(zip(source.cell_ids().view(np.int64).tolist(), source.obs_names(), strict=True))
    for batch in corpus.batches(8):
        for cell_id, sentence in zip(batch["cell_ids"].tolist(), words.sentences(batch), strict=True):
            found.setdefault(sentence, set()).add(names[cell_id])
    return found, names


def test_a_perturbed_cell_begins_as_a_matched_control_cell(corpus, cells):
    found, names = sentences_by_name(corpus)
    rows = rows_of(corpus, "perturb", templates="held_out")
    assert len(rows) == (cells.obs["treatment"] != "none").sum()
    drawn = set()
    for row in rows:
        own = cells.obs.loc[names[row["cell_id"]]]
        asked, answer = row["prompt"][0]["content"], row["completion"][0]["content"]
        assert names[row["cell_id"]] in found[answer] and own["treatment"] == row["label"]
        assert "IFNB1 {x}" in asked
        shown = {name for sentence, some in found.items() if sentence in asked for name in some}
        controls = cells.obs.loc[list(shown)]
        assert ((controls["treatment"] == "none") & (controls["cell_type"] == own["cell_type"])).any()
        drawn |= shown
    assert len(drawn) > 5


def test_two_cells_are_compared_by_types_and_genes(corpus, cells):
    found, names = sentences_by_name(corpus)
    rows = rows_of(corpus, "compare")
    assert len(rows) == 60
    same = 0
    for row in rows:
        own, asked, answer = names[row["cell_id"]], row["prompt"][0]["content"], row["completion"][0]["content"]
        others = [some - {own} for sentence, some in found.items() if sentence in asked and some - {own}]
        assert len(others) == 1
        other = cells.obs.loc[next(iter(others[0]))]
        assert other["donor"] == cells.obs.loc[own, "donor"]
        types = cells.obs.loc[own, "cell_type"], other["cell_type"]
        same += types[0] == types[1]
        apart = f"Cell 1: {types[0]}. Cell 2: {types[1]}."
        assert answer.startswith(f"Both cells are of type {types[0]}." if types[0] == types[1] else apart)
    assert 15 < same < 45


def test_a_puzzle_shows_each_type_once_and_answers_in_the_order_of_the_cells(corpus, cells):
    found, _ = sentences_by_name(corpus)
    rows = rows_of(corpus, "assign")
    assert len(rows) == 60
    sizes = set()
    for row in rows:
        lines = row["prompt"][0]["content"].splitlines()
        shown = [line.split(": ", 1)[1] for line in lines if line.startswith("Cell ")]
        types = row["completion"][0]["content"].split(" | ")
        assert len(shown) == len(types) == len(set(types)) and row["label"] in types
        assert " | ".join(sorted(types)) in row["prompt"][0]["content"]
        for sentence, label in zip(shown, types, strict=True):
            assert label in set(cells.obs.loc[list(found[sentence]), "cell_type"])
        sizes.add(len(types))
    assert sizes == {2, 3}


def test_a_description_holds_facts_and_what_rules_say(corpus, cells):
    rules = [MarkerRule("r1", "B cell", ("GENE0",), "high", "it is made there", "PMID 1")]
    rows = rows_of(corpus, "describe", rules=rules)
    for row in rows:
        answer, asked = row["completion"][0]["content"], row["prompt"][0]["content"]
        assert answer.startswith(f"Cell type: {row['label']}; donor: d") and "expressed genes are GENE" in answer
        supported = row["label"] == "B cell" and "GENE0 " in f"{asked} "
        assert ("GENE0 speaks for B cell: it is made there (PMID 1)." in answer) == supported
    assert any("PMID 1" in row["completion"][0]["content"] for row in rows)


def test_rules_about_no_type_of_the_cells_are_told(corpus):
    with pytest.warns(SclmWarning, match="No rule is about a cell type of these cells, such as 'B cell'"):
        rows_of(corpus, "describe", rules=[MarkerRule("r1", "hepatocyte", ("GENE0",), "high")])


def test_numbers_become_the_labels_of_their_bins(corpus, cells):
    conversations = Conversations(corpus, "sensitivity", **SETTINGS["sensitivity"])
    assert conversations.answers == ["sensitive", "resistant"]
    _, names = sentences_by_name(corpus)
    for row in conversations.to_dataset():
        own = cells.obs.loc[names[row["cell_id"]]]
        assert row["label"] == row["completion"][0]["content"] == ("sensitive" if own["ic50"] <= 2 else "resistant")
        assert own["drug"] in row["prompt"][0]["content"]


def test_a_slot_may_be_the_same_for_all_cells(corpus):
    columns = {"columns": {"sensitivity": "ic50"}, "fixed": {"drug": "<|im_start|>imatinib"}}
    for row in rows_of(corpus, "sensitivity", **columns):
        assert "< |im_start|>imatinib" in row["prompt"][0]["content"]


@pytest.mark.parametrize(
    "task, changes, message",
    [
        ("tissue", {"columns": {"tissue": "organ"}}, "column of `obs` for `tissue`"),
        ("annotate", {"columns": {"celltype": "cell_type"}}, r"names \['celltype'\].*slots \['cell_type'\]"),
        ("annotate", {"control": "none"}, "`control` .* is not for the task `annotate`"),
        ("perturb", {"control": "DMSO"}, "got 'DMSO'; there are"),
        ("perturb", {"control": None}, "got None"),
        ("perturb", {"match": ["organ"]}, r"`match` names `obs\['organ'\]`"),
        ("perturb", {"match": ["treatment"]}, "each lacks a control cell"),
        ("compare", {"match": ["number"]}, "each lacks another cell"),
        ("assign", {"cells": (8, 15)}, "each lacks 8 types"),
        ("assign", {"cells": (1, 3)}, "2 or more"),
        ("describe", {"columns": {}, "fixed": {"cell_type": "T cell"}}, "cannot be the same for all"),
        ("perturb", {"columns": {}, "fixed": {"perturbation": "drug"}}, "--column perturbation=COLUMN"),
        ("sensitivity", {"columns": {}, "bins": {}}, "would all be filled by the label"),
        ("sensitivity", {"bins": {"sensitivity": {"low": 1.0, "high": 2.0}}}, "holds 3.0, which is in no bin"),
        ("sensitivity", {"bins": {"sensitivity": {"low": 1.0}}}, "two or more labels"),
        ("sensitivity", {"bins": {"drug": {"low": 1.0, "high": 2.0}}}, "holds text"),
        ("sensitivity", {"bins": {"dose": {"low": 1.0, "high": 2.0}}}, "`bins` names"),
    ],
)
def test_refused(corpus, task, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        Conversations(corpus, task, **(SETTINGS[task] | changes))


def test_one_type_gives_nothing_to_compare_or_assign(cells, tmp_path):
    cells[cells.obs["cell_type"] == "NK"].copy().write_h5ad(tmp_path / "nk.h5ad")
    corpus = CellCorpus(tmp_path / "nk.h5ad", sentence_processor(GENES, 7), label_column="cell_type")
    for task in ("compare", "assign"):
        with pytest.raises(ConfigurationError, match="types"):
            Conversations(corpus, task)


def test_cells_without_control_are_counted_and_left_out(tmp_path):
    cells = make_treated(24)
    cells.obs.loc[cells.obs["cell_type"] == "NK", "treatment"] = "drug"
    cells.write_h5ad(tmp_path / "cells.h5ad")
    corpus = CellCorpus(tmp_path / "cells.h5ad", sentence_processor(GENES, 7), task_columns=COLUMNS)
    with pytest.warns(SclmWarning, match="8 cells of 20 give no questions, lacking a control cell"):
        rows = rows_of(corpus, "perturb")
    assert len(rows) == 12


@pytest.mark.parametrize("task", TASKS)
def test_wordings_to_evaluate_with_are_none_of_those_to_train_with(task):
    wordings = load_templates(task)
    train, held_out = ({one.prompt for one in wordings.choose(which)} for which in ("train", "held_out"))
    assert len(train) >= 10 and held_out and not train & held_out
    with pytest.raises(ConfigurationError, match="sing"):
        load_templates("sing")


def test_a_slot_is_a_plain_name(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("columns: [cell_type]\nanswer: '{cell_type.__class__}'\ntrain: ['{sentence}']\nheld_out: ['?']\n")
    with pytest.raises(ConfigurationError, match="plain name"):
        load_templates(str(path))


@pytest.mark.parametrize(
    "text",
    [
        b"columns: [cell_type]\nanswer: '!'\ntrain: 'one text'\nheld_out: ['?']\n",
        b"columns: [cell_type]\nanswer: '!'\ntrain: []\nheld_out: ['?']\n",
    ],
)
def test_a_file_of_another_form_is_no_file_of_wordings(text, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(ConfigurationError, match="is no file of templates"):
        load_templates(str(path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train: ['{sentence}']\nheld_out: ['?']\ntrain: ['other']\n", "says `train` twice"),
        ("train: ['{sentence}']\nheld_out: [2020-13-45]\n", "cannot be read as YAML"),
    ],
)
def test_wordings_are_read_as_other_settings_are(text, says, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("columns: [cell_type]\nanswer: '!'\n" + text)
    with pytest.raises(ConfigurationError, match=says):
        load_templates(str(path))


def test_a_side_without_wordings_is_refused(corpus, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("columns: [cell_type]\nanswer: '{cell_type}'\ntrain: ['{sentence}']\nheld_out: []\n")
    with pytest.raises(ConfigurationError, match="no wordings of the side 'held_out'"):
        Conversations(corpus, str(path), columns={"cell_type": "cell_type"}, templates="held_out")


def test_a_file_of_wordings_names_facts_that_there_are(corpus, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("columns: [cell_type]\nfacts: pears\nanswer: '!'\ntrain: ['{sentence}']\nheld_out: ['?']\n")
    with pytest.raises(ConfigurationError, match="pears"):
        Conversations(corpus, str(path), columns={"cell_type": "cell_type"})
