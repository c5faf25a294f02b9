"""Short training runs of language models on small files."""

import anndata
import numpy as np

from sclm_hf import annotate
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune_text import finetune_text
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.text import TextArguments

SIZES = '{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}'


def tuned(files, output, *, eval_files=None, text=None, config=None, **arguments):
    """Fine-tune on the CPU; unless told otherwise all of a new small model, without partners."""
    start = {"model_name_or_path": "small", "label_column": "cell_type", "head": "full", "partners": False}
    return finetune_text(
        DataArguments(list(map(str, files)), eval_files=eval_files and list(map(str, eval_files))),
        FinetuneArguments(**start | arguments),
        TextArguments(text=True, **text or {}),
        TrainingConfig(str(output), use_cpu=True, **{"learning_rate": 1e-2, "logging_steps": 1} | (config or {})),
    )


def losses_of(result):
    """The training losses, in order."""
    return [record["loss"] for record in result.history if "loss" in record]


def share_right(file, folder):
    """Accuracy of what `annotate` says of the cells of a file, without partners."""
    cells = annotate(anndata.read_h5ad(file), folder, partners=False)
    return np.mean(cells.obs["sclm_prediction"].astype(str) == cells.obs["cell_type"].astype(str))
