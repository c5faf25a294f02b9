import pytest
import torch

from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.tasks.loading import load_model

from .tiny import make_model, make_processor, save_checkpoint


def test_folder_brings_its_processor(tmp_path):
    loaded = load_model(save_checkpoint(tmp_path), "embed", device="cpu")
    assert loaded.model.dtype == torch.float32 and loaded.model.device.type == "cpu" and loaded.revision == ""
    assert loaded.processor.feature_extractor.max_length == 48
    assert loaded.processor.tokenizer.gene_vocabulary == make_processor().tokenizer.gene_vocabulary


def test_incomplete_checkpoints_are_refused(tmp_path):
    model = make_model()
    weights = {name: value for name, value in model.state_dict().items() if "layers.1.linear1" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    make_processor().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="lacks 2 weights"):
        load_model(tmp_path, "embed")


def test_missing_folder_and_missing_processor_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="absent` is not a checkpoint folder"):
        load_model(tmp_path / "absent", "embed")
    make_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no processor"):
        load_model(tmp_path, "embed")
    with pytest.raises(ConfigurationError, match="pass `processor`"):
        load_model(make_model(), "embed")


def test_vocabulary_must_fit_the_weights():
    model = make_model()
    model.resize_token_embeddings(20)
    with pytest.raises(CheckpointError, match=r"ids up to 92.*20 gene embeddings"):
        load_model(model, "embed", processor=make_processor())


def test_dtype_is_checked(tmp_path):
    with pytest.raises(ConfigurationError, match="'float32', 'bfloat16' or 'float16', got 'int8'"):
        load_model(save_checkpoint(tmp_path), "embed", dtype="int8")
    with pytest.raises(ConfigurationError, match="convert it"):
        load_model(make_model(), "embed", processor=make_processor(), dtype="bfloat16")
