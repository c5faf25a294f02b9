import pytest
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor

from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import LABELS, make_tiny_checkpoint
from sclm_hf.registry import FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_opens_with_auto_classes_and_is_small(family, tmp_path):
    folder = make_tiny_checkpoint(family, tmp_path / "a", genes=[f"G{number}" for number in range(40)])
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert model.config.model_type == family and type(model).__name__ == FAMILIES[family].auto_classes["AutoModel"]
    vocabulary = processor.tokenizer.gene_vocabulary
    assert model.get_input_embeddings().num_embeddings >= vocabulary.size > vocabulary["G39"]
    assert model.num_parameters() < 200_000


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_weights(family, tmp_path):
    models = [
        AutoModelForSequenceClassification.from_pretrained(
            make_tiny_checkpoint(family, tmp_path / name, task="annotate", seed=seed)
        )
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    weights = [model.state_dict() for model in models]
    assert_close(weights[0], weights[1], rtol=0, atol=0)
    assert any((weights[0][name] != weights[2][name]).any() for name in weights[0])
    assert tuple(models[0].config.id2label.values()) == LABELS


def test_tasks(tmp_path):
    folder = make_tiny_checkpoint("scgpt", tmp_path, task="pretrain")
    assert AutoConfig.from_pretrained(folder).architectures == ["ScGPTForMaskedExpression"]
    with pytest.raises(ConfigurationError, match="'pretrain'"):
        make_tiny_checkpoint("scgpt", tmp_path, task="dance")
    with pytest.raises(ConfigurationError, match="no family"):
        make_tiny_checkpoint("scgtp", tmp_path)
