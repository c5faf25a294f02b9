"""What the package knows about CIForm."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="ciform",
    title="CIForm",
    paper=(
        "Xu, Zhang, Liu, Zhang, Zheng, Zhang. CIForm as a Transformer-based model for cell-type annotation of "
        "large-scale single-cell RNA-seq data. Briefings in Bioinformatics 24, bbad195 (2023). "
        "doi:10.1093/bib/bbad195"
    ),
    repository="https://github.com/zhanglab-wbgcas/CIForm",
    code_license="none stated",
    task="names the types of cells",
    reads="Cells with raw counts of RNA and their types.",
    verbs={
        "annotate": ("key_added", "unassigned_threshold"),
        "evaluate": ("key_added", "unassigned_threshold", "label_key", "seen"),
        "embed": ("key_added",),
        "explain": ("methods", "label", "genes", "max_cells", "n_steps", "per_cell", "batch_size", "seed"),
    },
    config="CIFormConfig",
    auto_classes={
        "AutoModelForSequenceClassification": "CIFormForSequenceClassification",
        "AutoModel": "CIFormModel",
    },
    models=("CIFormModel", "CIFormForSequenceClassification"),
    processor="CIFormProcessor",
    recipe={
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 1e-5,
        "per_device_train_batch_size": 256,
        "num_train_epochs": 20,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    lora_target_modules=("linear1", "linear2"),
    key_value_modules=("k_proj", "v_proj"),
    feedforward_modules=("linear2",),
    norm_modules=("norm1", "norm2"),
    tiny={"patch_size": 16, "num_attention_heads": 4, "intermediate_size": 24},
)
