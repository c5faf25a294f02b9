"""What the package knows about T-GEM."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="tgem",
    title="T-GEM",
    paper=(
        "Zhang, Hasib, Chiu, Han, Jin, Flores, Chen, Huang. Transformer for Gene Expression Modeling (T-GEM): An "
        "Interpretable Deep Learning Model for Gene Expression-Based Phenotype Predictions. Cancers 14, 4763 (2022). "
        "doi:10.3390/cancers14194763"
    ),
    repository="https://github.com/TingheZhang/T-GEM",
    code_license="none stated",
    task="names the types of cells, by attention among genes",
    reads="Cells with raw counts of RNA and their types.",
    verbs={
        "annotate": ("key_added", "unassigned_threshold"),
        "evaluate": ("key_added", "unassigned_threshold", "label_key", "seen"),
        "embed": ("key_added",),
        "explain": ("methods", "label", "genes", "max_cells", "n_steps", "per_cell", "batch_size", "seed"),
    },
    config="TGEMConfig",
    auto_classes={
        "AutoModelForSequenceClassification": "TGEMForSequenceClassification",
        "AutoModel": "TGEMModel",
    },
    models=("TGEMModel", "TGEMForSequenceClassification"),
    processor="TGEMProcessor",
    recipe={
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
        "per_device_train_batch_size": 16,
        "num_train_epochs": 50,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note="A tenth of the training cells was set aside, and the epoch that named most of them kept.",
    tiny={"num_genes": 24, "num_attention_heads": 2, "num_hidden_layers": 2},
)
