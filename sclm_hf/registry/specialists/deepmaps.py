"""What the package knows about DeepMAPS."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="deepmaps",
    title="DeepMAPS",
    paper=(
        "Ma, Wang, Wang, Li, Wang, Liu, Su, Gao, Fu, … Ma. Single-cell biological network inference using a "
        "heterogeneous graph transformer. Nature Communications 14, 964 (2023). doi:10.1038/s41467-023-36559-0"
    ),
    repository="https://github.com/OSU-BMBL/deepmaps",
    code_license="none stated",
    task="embeds cells and genes together, and says which genes are active in which cells",
    reads="Cells with raw counts of RNA, alone or with proteins or open chromatin of the same cells.",
    verbs={
        "embed": ("key_added",),
        "multimodal": ("kind", "rna_key", "other_key", "key_added"),
        "grn": ("evidence", "genes", "n_genes", "regulators", "n_edges", "network", "baselines", "seed"),
    },
    directed=False,
    usage={
        "multimodal": 'other = anndata.read_h5ad("other.h5ad")  # the other modality of the same cells\n'
        'cells = sclm_hf.multimodal(cells, other, "{model}")\n'
        'cells.obsm["sclm_multimodal_joint"]',
        "grn": 'edges = sclm_hf.grn(cells, "{model}")\nedges.head()  # regulator, target, score',
    },
    config="DeepMAPSConfig",
    auto_classes={"AutoModel": "DeepMAPSModel"},
    models=("DeepMAPSModel",),
    processor="DeepMAPSProcessor",
    recipe={
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "per_device_train_batch_size": 1,
        "num_train_epochs": 100,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note=(
        "Published are a learning rate of 0.1 in the wrapper and 0.001 on the command line, which halves where the "
        "loss stays; codes that networks of their own make in 2,000 epochs before; and a graph learnt in parts."
    ),
    transductive=True,
    lora_target_modules=tuple(f"{part}.{name}" for part in ("q_proj", "v_proj") for name in ("gene", "cell")),
    key_value_modules=tuple(f"{part}.{name}" for part in ("k_proj", "v_proj") for name in ("gene", "cell")),
    feedforward_modules=("o_proj.gene", "o_proj.cell"),
    tiny={"gene_input_size": 6, "cell_input_size": 8, "hidden_size": 16, "num_attention_heads": 2},
)
