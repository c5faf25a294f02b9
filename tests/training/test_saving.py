"""What a run leaves behind."""

import pytest
import torch

from sclm_hf.adapters.lora import add_lora, load_adapter
from sclm_hf.opening.classifiers import open_classifier
from sclm_hf.opening.processors import load_processor
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training.saving import save_trained


@pytest.fixture
def base(tmp_path):
    return str(make_tiny_checkpoint("scgpt", tmp_path / "base"))


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_save_that_is_cut_off_leaves_the_earlier_one(base, tmp_path, monkeypatch):
    model, processor, out = add_lora(open_classifier(base, ["A", "B"])), load_processor(base), tmp_path / "out"
    save_trained(model, out, processor)
    (out / "training_log.jsonl").write_text("stays")
    before = contents(out)
    torch.nn.init.ones_(next(model.parameters()))

    def cut_off(folder):
        raise KeyboardInterrupt

    # the last that is written of an adapter, and of a model
    monkeypatch.setattr(processor, "save_pretrained", cut_off)
    with pytest.raises(KeyboardInterrupt):
        save_trained(model, out, processor)
    with pytest.raises(KeyboardInterrupt):
        save_trained(open_classifier(base, ["A", "B"]), out, processor)
    assert contents(out) == before


def test_the_text_of_an_adapter_stays_and_its_base_is_named_from_its_folder(base, tmp_path):
    model, out = add_lora(open_classifier(base, ["A", "B"])), tmp_path / "out"
    save_trained(model, out, load_processor(base), merged=False)
    (out / "adapter" / "README.md").write_text("# Mine")
    save_trained(model, out, load_processor(base), merged=False)
    assert (out / "adapter" / "README.md").read_text() == "# Mine"
    assert load_adapter(out / "adapter").active_peft_config.base_model_name_or_path == "../../base"
    assert [path.name for path in out.iterdir()] == ["adapter"]


def test_nothing_is_printed_where_nobody_looks(base, tmp_path, capfd):
    model = add_lora(open_classifier(base, ["A", "B"]))
    save_trained(model, tmp_path / "out", load_processor(base))
    out, err = capfd.readouterr()
    assert out == "" and err == ""
