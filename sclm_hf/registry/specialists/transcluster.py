"""What the package knows about transCluster."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="transcluster",
    title="transCluster",
    paper=(
        "Song, Dai, Wang, Wang, Zhang, Zhang, Jiao. TransCluster: A Cell-Type Identification Method for single-cell "
        "RNA-Seq data using deep learning based on transformer. Frontiers in Genetics 13, 1038919 (2022). "
        "doi:10.3389/fgene.2022.1038919"
    ),
    repository="https://github.com/Danica123/TransCluster",
    code_license="GPL-3.0",
    task="names the types of cells, by linear discriminant scores",
    reads="Cells with raw counts of RNA and their types.",
    verbs={
        "annotate": ("key_added", "unassigned_threshold"),
        "evaluate": ("key_added", "unassigned_threshold", "label_key", "seen"),
        "embed": ("key_added",),
    },
    config="TransClusterConfig",
    auto_classes={
        "AutoModelForSequenceClassification": "TransClusterForSequenceClassification",
        "AutoModel": "TransClusterModel",
    },
    models=("TransClusterModel", "TransClusterForSequenceClassification"),
    processor="TransClusterProcessor",
    recipe={
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "adam_epsilon": 1e-7,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 200,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note="Four of the tissues were trained for 20 epochs.",
    lora_target_modules=("q_proj", "v_proj"),
    key_value_modules=("k_proj", "v_proj"),
    feedforward_modules=("linear2",),
    norm_modules=("norm1", "norm2", "cross_norm"),
    tiny={"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "conv_filters": 6},
)
