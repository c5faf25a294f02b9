"""What the package knows about MarsGT."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="marsgt",
    title="MarsGT",
    paper=(
        "Wang, Duan, Dong, Chang, Li, Liu, Wang, Ma, … Liu. MarsGT: multi-omics analysis for rare population "
        "inference using single-cell graph transformer. Nature Communications 15, 338 (2024). "
        "doi:10.1038/s41467-023-44570-8"
    ),
    repository="https://github.com/mtduan/marsgt",
    code_license="none stated",
    task="finds clusters of cells, rare ones among them, and the peaks that go with genes in each",
    reads="Cells with raw counts of RNA and of open chromatin, and where the genes start.",
    verbs={"cluster": ("key_added",)},
    usage={
        "cluster": 'peaks = anndata.read_h5ad("atac.h5ad")  # raw counts of the same cells\n'
        'cells = sclm_hf.cluster(cells, "{model}", other=peaks)\n'
        'cells.obs[["sclm_cluster", "sclm_cluster_is_rare"]]'
    },
    config="MarsGTConfig",
    auto_classes={"AutoModel": "MarsGTModel"},
    models=("MarsGTModel",),
    processor="MarsGTProcessor",
    recipe={
        "optimizer": "adamw",
        "learning_rate": 5e-4,
        "weight_decay": 0.1,
        "per_device_train_batch_size": 30,
        "num_train_epochs": 150,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note=(
        "Published are a new optimizer for the second stage, and a learning rate of 0.01 for the layer of pairs; here "
        "one optimizer has one rate."
    ),
    transductive=True,
    lora_target_modules=tuple(f"{part}.{name}" for part in ("q_proj", "v_proj") for name in ("cell", "gene", "peak")),
    key_value_modules=tuple(f"{part}.{name}" for part in ("k_proj", "v_proj") for name in ("cell", "gene", "peak")),
    feedforward_modules=tuple(f"o_proj.{name}" for name in ("cell", "gene", "peak")),
    tiny={"cell_input_size": 8, "feature_input_size": 6, "hidden_size": 16, "num_attention_heads": 4},
)
