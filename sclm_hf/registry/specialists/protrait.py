"""What the package knows about PROTRAIT."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="protrait",
    title="PROTRAIT",
    paper=(
        "Wang, Zhang, Yu, Zhang, Liu, Zou. A Unified Deep Learning Framework for Single-Cell ATAC-Seq Analysis Based "
        "on ProdDep Transformer Encoder. International Journal of Molecular Sciences 24, 4784 (2023). "
        "doi:10.3390/ijms24054784"
    ),
    repository="https://github.com/ZhangLab312/PROTRAIT",
    code_license="none stated",
    task="finds vectors of cells from open chromatin and the DNA of its peaks",
    reads="Cells with counts of peaks, and the genome as FASTA.",
    verbs={"embed": ("key_added",), "annotate": ("key_added", "unassigned_threshold")},
    config="PROTRAITConfig",
    auto_classes={"AutoModel": "PROTRAITModel"},
    models=("PROTRAITModel",),
    processor="PROTRAITProcessor",
    recipe={
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 20,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note=(
        "The original divided the learning rate by 10 where a held-out part stopped to get better, and kept the best "
        "weights; it leaves the batch size and the number of epochs, which are 4 in its code, to the user."
    ),
    lora_target_modules=("q_proj", "v_proj"),
    # the vectors of the cells are its weights, and no verb reads anything else
    trained_in_full=("cells",),
    key_value_modules=("k_proj", "v_proj"),
    feedforward_modules=("linear2",),
    norm_modules=("norm1", "norm2"),
    transductive=True,
    tiny={
        "num_cells": 12,
        "sequence_length": 96,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "pool_sizes": [3, 2],
        "bottleneck_size": 8,
    },
)
