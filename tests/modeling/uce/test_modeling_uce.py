import copy
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoModel

from sclm_hf import UCEConfig, UCEForMaskedExpression, UCEForSequenceClassification, UCEModel
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.modeling.uce.modeling_uce import PROTEIN_FILE

from ..common import BATCH, GENES, VOCAB, ModelTester
from ..common_inputs import InputTester


def tiny_config(**changes) -> UCEConfig:
    sizes = {
        "vocab_size": VOCAB,
        "protein_embedding_size": 17,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 37,
        "max_position_embeddings": 40,
        "decoder_size": 23,
        "cell_embedding_size": 19,
        "expression_decoder_sizes": [21, 11],
        "num_labels": 5,
    }
    return UCEConfig(**sizes | changes)


def tiny_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, VOCAB, (BATCH, GENES), generator=generator)
    mask = torch.ones(BATCH, GENES, dtype=torch.long)
    ids[:, 0] = 3
    mask[1, -2:] = mask[5, -1:] = 0
    ids[mask == 0] = 0
    return {"input_ids": ids, "attention_mask": mask}


class TestUCE(InputTester, ModelTester):
    family = "uce"
    base_class = UCEModel
    head_classes = (UCEForMaskedExpression, UCEForSequenceClassification)
    permutation_equivariant = False

    def config(self, **changes):
        return tiny_config(**changes)

    def inputs(self, model_class, *, labels=False):
        batch = tiny_batch()
        if model_class is UCEForMaskedExpression:
            batch["query_ids"] = 4 + torch.arange(BATCH * 3).reshape(BATCH, 3)
        if labels and model_class is UCEForMaskedExpression:
            batch["labels"] = (torch.arange(BATCH * 3).reshape(BATCH, 3) % 2).float()
            batch["labels"][2] = -100
        elif labels:
            batch["labels"] = torch.arange(BATCH) % 5
        return batch


def test_padding_moves_cells_only_with_the_quirk():
    model = UCEModel(tiny_config()).eval()
    batch = tiny_batch()
    padded = {name: torch.nn.functional.pad(values, (0, 4)) for name, values in batch.items()}
    assert (model(**batch).cell_embedding - model(**padded).cell_embedding).abs().max() > 1e-4
    model.config.padding_is_additive = False
    assert_close(model(**batch).cell_embedding, model(**padded).cell_embedding, atol=1e-5, rtol=1e-5)


def test_quirk_is_refused_where_attention_cannot_do_it():
    model = UCEModel(tiny_config())
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigurationError, match="padding_is_additive=False"):
        model(**tiny_batch())


def test_cells_that_are_too_long_are_refused():
    with pytest.raises(ConfigurationError, match="41 tokens do not fit the model, which reads 40"):
        UCEModel(tiny_config())(torch.full((1, 41), 5))


def test_labels_need_queries():
    with pytest.raises(ConfigurationError, match="query_ids"):
        UCEForMaskedExpression(tiny_config())(**tiny_batch(), labels=torch.ones(BATCH, 2))


def test_protein_table_is_no_weight_and_is_shared(tmp_path):
    model = UCEModel(tiny_config())
    table = model.get_input_embeddings().the_table()
    assert not [name for name, values in model.state_dict().items() if VOCAB in values.shape]
    assert copy.deepcopy(model).get_input_embeddings().the_table() is table
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors", PROTEIN_FILE}
    assert_close(load_file(tmp_path / PROTEIN_FILE)["weight"], table.rows, rtol=0, atol=0)


def test_saving_a_loaded_model_copies_the_table_byte_by_byte(tmp_path):
    UCEModel(tiny_config()).save_pretrained(tmp_path / "first")
    model = AutoModel.from_pretrained(tmp_path / "first")
    model.save_pretrained(tmp_path / "first")
    model.save_pretrained(tmp_path / "second")
    first, second = ((tmp_path / name / PROTEIN_FILE).read_bytes() for name in ("first", "second"))
    assert first == second


def test_a_table_that_cannot_be_written_leaves_no_half_of_it(tmp_path, monkeypatch):
    UCEModel(tiny_config()).save_pretrained(tmp_path / "first")
    model = AutoModel.from_pretrained(tmp_path / "first")

    def full(source, target):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path / "second")
    assert not [file.name for file in (tmp_path / "second").iterdir() if "protein" in file.name]


def test_models_from_a_configuration_have_the_same_proteins():
    ids = torch.arange(VOCAB)
    first, second = (UCEModel(tiny_config()).get_input_embeddings()(ids) for _ in range(2))
    assert torch.equal(first, second)
    assert first.std() > 0.5


def test_missing_or_wrong_protein_table(tmp_path):
    UCEModel(tiny_config()).save_pretrained(tmp_path)
    save_file({"weight": torch.zeros(VOCAB, 3)}, tmp_path / PROTEIN_FILE)
    with pytest.raises(CheckpointError, match=r"\(99, 3\).*\(99, 17\)"):
        AutoModel.from_pretrained(tmp_path)
    (tmp_path / PROTEIN_FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read as a protein table"):
        AutoModel.from_pretrained(tmp_path)
    (tmp_path / PROTEIN_FILE).unlink()
    with pytest.raises(CheckpointError, match=f"no `{PROTEIN_FILE}`"):
        AutoModel.from_pretrained(tmp_path)


def test_proteins_of_a_new_species(tmp_path):
    model = UCEForMaskedExpression(tiny_config()).eval()
    batch, before = tiny_batch(), None
    before = model(**batch).cell_embedding
    rows = model.get_input_embeddings().the_table().rows
    with pytest.raises(ConfigurationError, match="set_protein_embeddings"):
        model.resize_token_embeddings(VOCAB + 2)
    with pytest.raises(ConfigurationError, match=r"\(proteins, 17\), got \(2, 3\)"):
        model.set_protein_embeddings(torch.ones(2, 3))
    model.set_protein_embeddings(torch.cat([rows, torch.ones(2, 17)]))
    assert torch.equal(model(**batch).cell_embedding, before)
    batch["input_ids"][0, 3] = VOCAB + 1
    after = model(**batch).cell_embedding
    assert not torch.equal(after[0], before[0])
    model.save_pretrained(tmp_path)
    reloaded = AutoModel.from_pretrained(tmp_path).eval()
    assert reloaded.config.vocab_size == VOCAB + 2
    assert_close(reloaded(**batch).cell_embedding, after)


def test_saving_straight_to_the_hub_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="push"):
        UCEModel(tiny_config()).save_pretrained(tmp_path, push_to_hub=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"num_attention_heads": 5}, "multiple"), ({"hidden_size": 33, "num_attention_heads": 3}, "even")],
)
def test_contradicting_settings_are_refused(settings, message):
    with pytest.raises(Exception, match=message):
        tiny_config(**settings)
