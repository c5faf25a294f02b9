"""In every verb a stock BERT or GPT-2 beside a processor of ours opens as the family of the processor."""

import pytest
import torch
import transformers

from sclm_hf import FAMILIES
from sclm_hf.adapters.lora import add_lora, load_adapter, save_adapter
from sclm_hf.errors import CheckpointError
from sclm_hf.hub.card import start_facts
from sclm_hf.opening.classifiers import open_classifier, open_multitask_classifier
from sclm_hf.opening.families import family_of
from sclm_hf.opening.kinds import AUTO_CLASSES
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.processors import load_processor
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tasks.annotate import ANNOTATE
from sclm_hf.tasks.embed import EMBED
from sclm_hf.tasks.perturb import PERTURB
from sclm_hf.training.pretrain import create_collator, create_model
from sclm_hf.training.settings.pretrain import PretrainArguments

BUILT_ON = {"geneformer": "BertForMaskedLM", "iseeek": "BertForMaskedLM", "tgpt": "GPT2LMHeadModel"}


def adapted(folder):
    """The class inside an adapter that was trained on the folder, saved and loaded again."""
    save_adapter(add_lora(open_classifier(folder, ["A", "B"])), f"{folder}/adapter", processor=load_processor(folder))
    return load_adapter(f"{folder}/adapter").get_base_model()


def pretrained(folder):
    arguments = PretrainArguments(model_name_or_path=folder)
    processor = load_processor(folder)
    create_collator(arguments, processor)
    return create_model(arguments, processor)


VERBS = {
    "embed": ("embed", lambda folder: load_model(folder, EMBED.auto_class).model),
    "perturb": ("embed", lambda folder: load_model(folder, PERTURB.auto_class).model),
    "finetune": ("annotate", lambda folder: open_classifier(folder, ["A", "B"])),
    "adapters": ("annotate", adapted),
    "pretrain": ("pretrain", pretrained),
}


@pytest.fixture(scope="module", params=BUILT_ON)
def stock(request, tmp_path_factory):
    """Family, and a folder with a processor of it, whose model and configuration are transformers' own."""
    family, folder = request.param, make_tiny_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    kind = getattr(transformers, BUILT_ON[family])
    known = set(kind.config_class().to_dict()) - {"model_type", "architectures", "transformers_version"}
    ours = transformers.AutoConfig.from_pretrained(folder).to_dict()
    torch.manual_seed(0)
    kind(kind.config_class(**{name: value for name, value in ours.items() if name in known})).save_pretrained(folder)
    return family, str(folder)


def class_of(family, task):
    return FAMILIES[family].auto_classes[AUTO_CLASSES[task]]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_opens_the_class_of_the_family(stock, verb):
    family, folder = stock
    task, opens = VERBS[verb]
    assert transformers.AutoConfig.from_pretrained(folder).model_type in ("bert", "gpt2")
    assert type(opens(folder)).__name__ == class_of(family, task)


def test_annotate_opens_a_stock_classifier(stock, tmp_path):
    family, folder = stock
    kind = "GPT2ForSequenceClassification" if family == "tgpt" else "BertForSequenceClassification"
    getattr(transformers, kind).from_pretrained(folder, num_labels=3).save_pretrained(tmp_path)
    load_processor(folder).save_pretrained(tmp_path)
    facts = start_facts(tmp_path, license="mit")
    assert (facts.family, facts.task, len(facts.label_names)) == (family, "annotate", 3)
    if family == "tgpt":
        # its classifier sees all positions, and that of GPT-2 the last one
        with pytest.raises(CheckpointError, match="lacks 2 weights that TGPTForSequenceClassification needs"):
            load_model(tmp_path, ANNOTATE.auto_class)
    else:
        assert type(load_model(tmp_path, ANNOTATE.auto_class).model).__name__ == class_of(family, "annotate")


@pytest.mark.parametrize("stock", ["geneformer"], indirect=True)
def test_several_tasks_open_the_class_of_the_family(stock):
    model = open_multitask_classifier(stock[1], {"a": "AB", "b": "CD"})
    assert type(model).__name__ == "GeneformerForMultiTaskClassification"


def test_cards_name_the_family(stock):
    family, folder = stock
    assert start_facts(folder, license="mit").family == family_of(folder)[0].name == family


def test_a_stock_folder_beside_a_processor_of_another_family_is_refused(stock, tmp_path):
    transformers.AutoConfig.from_pretrained(stock[1]).save_pretrained(tmp_path)
    load_processor(str(make_tiny_checkpoint("scgpt", tmp_path / "other"))).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected one of the families"):
        family_of(str(tmp_path))
