"""What the package knows about scMoFormer."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="scmoformer",
    title="scMoFormer",
    paper=(
        "Tang, Wen, Liu et al. Single-cell multimodal prediction via transformers. CIKM 2023. arXiv:2303.00233. "
        "doi:10.1145/3583780.3615061"
    ),
    repository="https://github.com/OmicsML/scMoFormer",
    code_license="MIT",
    task="predicts surface proteins from RNA",
    reads="Cells with raw counts of RNA and of proteins.",
    verbs={"multimodal": ("kind", "rna_key", "other_key", "key_added"), "embed": ("key_added",)},
    usage={
        "multimodal": 'cells = sclm_hf.multimodal(cells, model="{model}")\ncells.obsm["sclm_multimodal_predicted"]'
    },
    config="ScMoFormerConfig",
    auto_classes={"AutoModel": "ScMoFormerModel"},
    models=("ScMoFormerModel",),
    processor="ScMoFormerProcessor",
    recipe={
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 1e-6,
        "per_device_train_batch_size": 1,
        "num_train_epochs": 200,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note=(
        "The original trains for at most 5000 epochs, lowers the learning rate when held-out cells gain nothing, and "
        "stops after 40 such epochs."
    ),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "own", "brought", "linear1", "linear2"),
    key_value_modules=("k_proj", "v_proj"),
    feedforward_modules=("linear2",),
    tiny={
        "num_genes": 20,
        "num_proteins": 4,
        "feature_size": 6,
        "position_size": 4,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "graph_head_dim": 8,
    },
)
