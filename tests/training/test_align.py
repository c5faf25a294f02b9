import json

import anndata as ad
import pytest
from transformers import AutoModel

from sclm_hf import annotate
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.training import verbs
from sclm_hf.training.align import align
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.settings.align import AlignArguments
from sclm_hf.training.settings.data import DataArguments

from ..dual_encoders import TEXTS
from .h5ad_files import GENES, write_h5ad


@pytest.fixture
def place(tmp_path):
    make_tiny_checkpoint("scgpt", tmp_path / "cells", genes=GENES)
    write_h5ad(tmp_path / "a.h5ad", 60, others=0.1)
    (tmp_path / "labels.json").write_text(json.dumps(TEXTS))
    return tmp_path


def flags(place, **settings):
    given = {
        "model_name_or_path": place / "cells",
        "train_files": place / "a.h5ad",
        "label_column": "cell_type",
        "labels": place / "labels.json",
        "output_dir": place / "out",
        "max_steps": 3,
        "projection_dim": 12,
        "use_cpu": True,
    }
    return [part for name, value in (given | settings).items() for part in (f"--{name}", str(value))]


@pytest.mark.slow
def test_the_command_trains_a_model_that_annotates_by_descriptions(place, capsys):
    verbs.align(flags(place, max_steps=60, learning_rate=3e-3, per_device_train_batch_size=30, eval_share=0.2))
    assert "accuracy" in capsys.readouterr().out
    cells = ad.read_h5ad(write_h5ad(place / "b.h5ad", 60, seed=1, others=0.1))
    labelled = annotate(cells, place / "out", labels=TEXTS).obs["sclm_prediction"].astype(str)
    assert (labelled == cells.obs["cell_type"].astype(str)).mean() > 0.9


@pytest.mark.parametrize("lock", ["cell", "none"])
def test_a_locked_encoder_is_saved_as_it_was(place, lock):
    verbs.align(flags(place, lock=lock))
    before, after = (AutoModel.from_pretrained(place / name).state_dict() for name in ("cells", "out"))
    changed = any((after[f"cell_model.{name}"] != tensor).any() for name, tensor in before.items())
    assert changed == (lock == "none")


def test_what_would_teach_nothing_is_refused(place):
    with pytest.raises(ConfigurationError, match="knows nothing yet"):
        verbs.align(flags(place, lock="text"))
    (place / "labels.json").write_text(json.dumps({"B cell": "a", "T cell": "b"}))
    arguments = AlignArguments(str(place / "cells"), "cell_type", labels=str(place / "labels.json"))
    config = TrainingConfig(output_dir=str(place / "out"), use_cpu=True)
    with pytest.raises(ConfigurationError, match="describes none of \\['NK cell'\\]"):
        align(DataArguments([str(place / "a.h5ad")]), arguments, config)
