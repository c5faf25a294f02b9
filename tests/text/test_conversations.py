import anndata
import pytest

from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.errors import ConfigurationError
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.templates import TASKS, load_templates

from ..training.h5ad_files import write_h5ad


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = write_h5ad(tmp_path_factory.mktemp("cells") / "cells.h5ad", 40, seed=0)
    processor = sentence_processor(anndata.read_h5ad(path).var_names, 7)
    return CellCorpus([str(path)], processor, label_column="cell_type")


def test_a_row_asks_about_a_cell_and_answers_with_its_label(corpus):
    rows = list(Conversations(corpus).to_dataset())
    assert len(rows) == 40 and len({row["cell_id"] for row in rows}) == 40
    for row in rows:
        assert [message["role"] for message in row["prompt"] + row["completion"]] == ["user", "assistant"]
        assert row["completion"][0]["content"] == row["label"]
        assert sum(word.startswith("GENE") for word in row["prompt"][0]["content"].split()) <= 7


def test_wordings_vary_with_cell_and_epoch_and_are_drawn_again_alike(corpus):
    conversations = Conversations(corpus)
    first = {row["cell_id"]: row["template"] for row in conversations.to_dataset()}
    again = {row["cell_id"]: row["template"] for row in conversations.to_dataset()}
    later = {row["cell_id"]: row["template"] for row in conversations.to_dataset(epoch=1)}
    assert first == again != later and len(set(first.values())) > 4


def test_a_stream_resumes_where_it_was(corpus):
    whole = list(Conversations(corpus).to_dataset())
    dataset = Conversations(corpus).to_dataset()
    taken = []
    for row in dataset:
        taken.append(row)
        if len(taken) == 17:
            state = dataset.state_dict()
            break
    resumed = Conversations(corpus).to_dataset()
    resumed.load_state_dict(state)
    assert taken + list(resumed) == whole


def test_a_cell_of_a_type_is_asked_for(corpus):
    for row in Conversations(corpus, "generate").to_dataset():
        genes = row["completion"][0]["content"].split()
        assert row["label"] in row["prompt"][0]["content"] and 0 < len(genes) <= 7
        assert f"{len(genes)}" in row["prompt"][0]["content"]


def test_a_task_asks_for_its_column(corpus):
    with pytest.raises(ConfigurationError, match="tissue"):
        Conversations(corpus, "tissue", columns={"tissue": "organ"})


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
