"""What the package knows about STGRNS."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="stgrns",
    title="STGRNS",
    paper=(
        "Xu, Zhang, Liu, Zhang. STGRNS: an interpretable transformer-based method for inferring gene "
        "regulatory networks from single-cell transcriptomic data. Bioinformatics 39, btad165 (2023). "
        "doi:10.1093/bioinformatics/btad165"
    ),
    repository="https://github.com/zhanglab-wbgcas/STGRNS",
    code_license="none stated",
    task="tells which genes regulate which, from known pairs",
    reads="Cells with raw counts of RNA, and known pairs of a regulator and its target.",
    verbs={
        "grn": (
            "evidence",
            "genes",
            "n_genes",
            "regulators",
            "n_edges",
            "condition_key",
            "reference",
            "max_cells",
            "network",
            "baselines",
            "seed",
        )
    },
    usage={"grn": 'edges = sclm_hf.grn(cells, "{model}")\nedges.head()  # regulator, target, score'},
    config="STGRNSConfig",
    auto_classes={
        "AutoModelForSequenceClassification": "STGRNSForPairClassification",
        "AutoModel": "STGRNSModel",
    },
    models=("STGRNSModel", "STGRNSForPairClassification"),
    processor="STGRNSProcessor",
    recipe={
        "optimizer": "adam",
        "learning_rate": 3e-4,
        "weight_decay": 1e-5,
        "per_device_train_batch_size": 32,
        "num_train_epochs": 200,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 10.0,
    },
    recipe_note="The order of pairs was the same in every epoch, and the number of epochs is that of the tutorial.",
    lora_target_modules=("q_proj", "v_proj"),
    key_value_modules=("k_proj", "v_proj"),
    feedforward_modules=("linear2",),
    norm_modules=("norm1", "norm2"),
    tiny={"window_size": 10, "intermediate_size": 24},
)
