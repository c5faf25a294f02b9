"""What the package knows about scTransSort."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="sctranssort",
    title="scTransSort",
    paper=(
        "Jiao, Wang, Dai, Li, Wang, Song. scTransSort: Transformers for Intelligent Annotation of Cell Types by Gene "
        "Embeddings. Biomolecules 13, 611 (2023). doi:10.3390/biom13040611"
    ),
    repository="https://github.com/jiaojiao-123/scTransSort",
    code_license="none stated",
    task="names the types of cells, whose genes are laid out as an image",
    reads="Cells with raw counts of RNA and their types.",
    verbs={
        "annotate": ("key_added", "unassigned_threshold"),
        "evaluate": ("key_added", "unassigned_threshold", "label_key", "seen"),
        "embed": ("key_added",),
        "explain": ("methods", "label", "genes", "max_cells", "n_steps", "per_cell", "batch_size", "seed"),
    },
    config="ScTransSortConfig",
    auto_classes={
        "AutoModelForSequenceClassification": "ScTransSortForSequenceClassification",
        "AutoModel": "ScTransSortModel",
    },
    models=("ScTransSortModel", "ScTransSortForSequenceClassification"),
    processor="ScTransSortProcessor",
    recipe={
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "adam_beta1": 0.9,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 40,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 0.0,
    },
    recipe_note=(
        "The learning rate fell once per epoch, to a hundredth and not to 0; biases and norms had no weight decay; "
        "and the epoch that named most cells of a held-out part was reported."
    ),
    lora_target_modules=("q_proj", "v_proj"),
    key_value_modules=("k_proj", "v_proj"),
    feedforward_modules=("linear2",),
    norm_modules=("norm1", "norm2"),
    tiny={
        "image_size": 16,
        "patch_size": 8,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    },
)
