"""What the package knows about scMVP."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="scmvp",
    title="scMVP",
    paper=(
        "Li, Fu, Wang et al. A deep generative model for multi-view profiling of single-cell RNA-seq and ATAC-seq "
        "data. Genome Biology 23, 20 (2022). doi:10.1186/s13059-021-02595-6"
    ),
    repository="https://github.com/bm2-lab/scMVP",
    code_license="MIT",
    task="joins RNA and open chromatin of the same cells, and completes both",
    reads="Cells with raw counts of RNA and of peaks.",
    verbs={"multimodal": ("kind", "rna_key", "other_key", "key_added")},
    usage={
        "multimodal": 'peaks = anndata.read_h5ad("atac.h5ad")  # raw counts of the same cells\n'
        'cells = sclm_hf.multimodal(cells, peaks, "{model}")\n'
        'cells.obsm["sclm_multimodal_joint"]'
    },
    config="ScMVPConfig",
    auto_classes={"AutoModel": "ScMVPModel"},
    models=("ScMVPModel",),
    processor="ScMVPProcessor",
    recipe={
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "adam_epsilon": 0.01,
        "weight_decay": 1e-6,
        "per_device_train_batch_size": 64,
        "num_train_epochs": 30,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note=(
        "The tutorial trains 10 epochs on thousands of cells, the paper's notebooks 10 to 30, after training encoders "
        "of the single modalities, and 5 % of the cells choose when to stop."
    ),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "dense"),
    key_value_modules=("k_proj", "v_proj"),
    tiny={"num_genes": 20, "num_peaks": 30, "hidden_size": 16, "latent_size": 4, "num_attention_heads": 4},
)
