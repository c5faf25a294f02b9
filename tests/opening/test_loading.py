import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneformerModel, GeneTokenizer, embed
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.loading import load_model

from ..tasks.tiny import GENES, make_cells, make_model, make_processor, save_checkpoint


def test_folder_brings_its_processor(tmp_path):
    loaded = load_model(save_checkpoint(tmp_path), "AutoModel", device="cpu")
    assert loaded.model.dtype == torch.float32 and loaded.model.device.type == "cpu" and loaded.revision == ""
    assert loaded.processor.feature_extractor.max_length == 48
    assert loaded.processor.tokenizer.gene_vocabulary == make_processor().tokenizer.gene_vocabulary


def test_incomplete_checkpoints_are_refused(tmp_path):
    model = make_model()
    weights = {name: value for name, value in model.state_dict().items() if "layers.1.linear1" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    make_processor().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="lacks 2 weights"):
        load_model(tmp_path, "AutoModel")


def test_missing_folder_and_missing_processor_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="absent` is not a checkpoint folder"):
        load_model(tmp_path / "absent", "AutoModel")
    make_model().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no processor"):
        load_model(tmp_path, "AutoModel")
    with pytest.raises(ConfigurationError, match="pass `processor`"):
        load_model(make_model(), "AutoModel")


def test_vocabulary_must_fit_the_weights():
    model = make_model()
    model.resize_token_embeddings(20)
    with pytest.raises(CheckpointError, match=r"ids up to 92.*20 gene embeddings"):
        load_model(model, "AutoModel", processor=make_processor())


def test_dtype_is_checked(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"`dtype` \(`--dtype`\) must be 'float32', 'bfloat16' or 'float16', got 'int8'"
    ):
        load_model(save_checkpoint(tmp_path), "AutoModel", dtype="int8")
    with pytest.raises(ConfigurationError, match="convert it"):
        load_model(make_model(), "AutoModel", processor=make_processor(), dtype="bfloat16")


def test_foreign_models_are_named(tmp_path):
    folder = save_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for changed, message in (
        ({"model_type": "bert"}, r"is a `bert` model; expected one of the families .*scgpt"),
        ({"model_type": "unheard_of"}, "unheard_of"),
        ({"model_type": None}, "is a `None` model"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changed))
        with pytest.raises(CheckpointError, match=message):
            load_model(folder, "AutoModel")
    tiny = BertConfig(vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    for model in (BertModel(tiny), 42, torch.nn.Linear(1, 1)):
        with pytest.raises(CheckpointError, match=r"in memory is a `(bert|int|Linear)` model"):
            load_model(model, "AutoModel", processor=make_processor())


def test_foreign_processors_are_named(tmp_path):
    folder = save_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="must be a CellProcessor, got GeneTokenizer"):
        load_model(folder, "AutoModel", processor=make_processor().tokenizer)
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Unheard"}')
    with pytest.raises(CheckpointError, match="must be a CellProcessor"):
        load_model(folder, "AutoModel")


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device):
    with pytest.raises(ConfigurationError, match=rf"`device='{device}'` cannot be used on this machine"):
        load_model("never looked at", "AutoModel", device=device)


def test_a_stock_folder_opens_as_the_family_that_its_processor_names(tmp_path):
    torch.manual_seed(0)
    tokenizer = GeneTokenizer.from_genes(GENES, special_tokens=("<pad>", "<mask>", "<cls>", "<eos>"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    vocab_size = tokenizer.gene_vocabulary.size
    stock = BertForMaskedLM(BertConfig(vocab_size=vocab_size, max_position_embeddings=48, **sizes))
    stock.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"`bert` model.*beside the processor"):
        load_model(tmp_path, "AutoModel")
    for special in (True, False):
        settings = {"max_length": 48, "add_cls": special, "add_eos": special}
        extractor = ExpressionFeatureExtractor.for_family("geneformer", **settings)
        CellProcessor(extractor, tokenizer).save_pretrained(tmp_path)
        loaded = load_model(tmp_path, "AutoModel")
        assert type(loaded.model) is GeneformerModel
        assert loaded.model.config.pooling == ("cls" if special else "mean")
    assert embed(make_cells(), tmp_path).obsm["X_geneformer"].shape == (23, 32)
