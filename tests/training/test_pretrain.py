import anndata
import numpy as np
import pytest
import torch

from sclm_hf import CellProcessor, ExpressionFeatureExtractor
from sclm_hf.adapters.lora import load_adapter, merge_adapter
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.opening.new_models import new_tokenizer
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.opening.weights import open_model
from sclm_hf.registry import FAMILIES
from sclm_hf.training.arguments import TrainingConfig, parse_arguments
from sclm_hf.training.pretrain import create_collator, pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.pretrain import PretrainArguments


def collator(family, *flags):
    genes = [f"GENE{number}" for number in range(10)]
    processor = CellProcessor(ExpressionFeatureExtractor.for_family(family), new_tokenizer(family, genes))
    (arguments,) = parse_arguments((PretrainArguments,), ["--family", family, *flags])
    return create_collator(arguments, processor)


@pytest.mark.parametrize(
    ("family", "objective", "published"),
    [
        ("scgpt", "generative", (0.25, 0.5, 0.75)),
        ("scgpt", "masked", 0.4),
        ("scbert", "masked", 0.15),
        ("geneformer", "masked_genes", 0.15),
        ("iseeek", "masked_genes", 0.15),
    ],
)
def test_mask_ratio_is_that_of_the_user_or_the_published_one(family, objective, published):
    assert collator(family, "--objective", objective).mask_ratio == published
    assert collator(family, "--objective", objective, "--mask_ratio", "0.3").mask_ratio == (0.3,)
    several = collator(family, "--objective", objective, "--mask_ratio", "0.1", "0.7", "--ratio_per", "cell")
    assert (several.mask_ratio, several.ratio_per) == ((0.1, 0.7), "cell")


@pytest.mark.parametrize(("family", "objective"), [("tgpt", "next_gene"), ("scfoundation", "read_depth")])
def test_mask_ratio_is_refused_where_it_has_no_meaning(family, objective):
    collator(family, "--objective", objective)
    with pytest.raises(ConfigurationError, match=f"'{objective}' has no `mask_ratio`"):
        collator(family, "--objective", objective, "--mask_ratio", "0.3")


def test_second_pass_can_be_left_out():
    assert collator("scgpt").second_pass_after == 1000
    assert collator("scgpt", "--second_pass_after", "-1").second_pass_after is None


AUTO = {
    None: "AutoModelForPreTraining",
    "contrastive": "AutoModel",
    "supervised": "AutoModelForSequenceClassification",
}
ADAPTED = [(name, None) for name, family in FAMILIES.items() if family.objectives]
ADAPTED += [("scgpt", "supervised"), ("uce", "supervised"), ("tgpt", "contrastive"), ("cellplm", "contrastive")]


@pytest.mark.parametrize(("family", "objective"), ADAPTED)
def test_lora_goes_on_from_a_model_on_cells_without_labels(family, objective, tmp_path):
    model = make_tiny_checkpoint(family, tmp_path / "base", task="embed" if objective else "pretrain")
    cells = _some_cells(model, tmp_path)
    result = pretrain(
        DataArguments([str(cells)], batch_column="sample" if family == "cellplm" else None),
        PretrainArguments(
            model_name_or_path=str(model),
            lora_r=2,
            objective=objective,
            label_column=["cell_type"] if objective == "supervised" else None,
        ),
        TrainingConfig(
            output_dir=str(tmp_path / "out"), max_steps=3, per_device_train_batch_size=12, learning_rate=1e-2
        ),
    )
    adapted = load_adapter(result.output_dir / "adapter")
    base, tuned = adapted.get_base_model(), open_model(str(result.output_dir), AUTO[objective])
    assert type(base) is type(tuned)
    merged = merge_adapter(adapted).state_dict()
    for name, tensor in tuned.state_dict().items():
        # scBERT counts its steps
        if tensor.is_floating_point():
            assert torch.allclose(tensor, merged[name], atol=1e-6), name
    before = open_model(str(model), "AutoModel").state_dict()
    changed = {name for name, one in tuned.base_model.state_dict().items() if not torch.equal(one, before[name])}
    targets = FAMILIES[family].lora_target_modules or FAMILIES[family].lora_without_attention
    assert any(f"{target}.weight" in name for name in changed for target in targets)
    assert not any("embed" in name for name in changed)


def test_lora_is_refused_where_it_has_no_meaning(tmp_path):
    with pytest.raises(ConfigurationError, match="name it with `model_name_or_path`"):
        PretrainArguments(lora_r=8)
    with pytest.raises(ConfigurationError, match="`lora_alpha` belongs to a LoRA: give its rank with `lora_r`"):
        PretrainArguments(model_name_or_path="model", lora_alpha=8)
    encoder = make_tiny_checkpoint("geneformer", tmp_path / "base", task="embed")
    with pytest.raises(CheckpointError, match=r"lacks .* that GeneformerForMaskedLM needs"):
        pretrain(
            DataArguments([str(_some_cells(encoder, tmp_path))]),
            PretrainArguments(model_name_or_path=str(encoder), lora_r=2),
            TrainingConfig(output_dir=str(tmp_path / "out"), max_steps=1),
        )


def _some_cells(model, folder):
    genes = list(CellProcessor.from_pretrained(model).tokenizer.gene_vocabulary)[-40:]
    cells = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (48, len(genes))).astype(np.float32))
    cells.var_names, cells.obs_names = genes, [f"cell{number}" for number in range(48)]
    cells.obs["cell_type"] = [f"type{number % 3}" for number in range(48)]
    cells.obs["sample"] = [f"sample{number % 4}" for number in range(48)]
    cells.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"
