"""What the package knows about TransformerST."""

from .specialist import Specialist

SPECIALIST = Specialist(
    name="transformerst",
    title="TransformerST",
    paper=(
        "Zhao, Xu, Wang et al. Innovative super-resolution in spatial transcriptomics: a transformer model exploiting "
        "histology images and spatial gene expression. Briefings in Bioinformatics 25, bbae052 (2024). "
        "doi:10.1093/bib/bbae052"
    ),
    repository="https://github.com/Zhaocy-Research/TransformerST",
    code_license="MIT, as its README says",
    task="divides tissue into domains",
    reads="Spots with raw counts of RNA and coordinates in `obsm`.",
    verbs={
        "spatial": (
            "neighbours",
            "sample_key",
            "domains",
            "label_key",
            "spatial_key",
            "key_added",
            "resolutions",
            "n_subsamples",
            "seed",
        ),
        "embed": ("key_added",),
    },
    usage={"spatial": 'cells = sclm_hf.spatial(cells, "{model}")\ncells.obs["sclm_domain"]'},
    config="TransformerSTConfig",
    auto_classes={"AutoModel": "TransformerSTModel"},
    models=("TransformerSTModel",),
    processor="TransformerSTProcessor",
    recipe={
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "per_device_train_batch_size": 1,
        "num_train_epochs": 1000,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
    },
    recipe_note=(
        "The original trains 1000 more epochs in which clusters are trained too (`cluster_from_epoch` 1000 and "
        "`num_train_epochs` 2000), and an image model apart, which its released code does not use."
    ),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "skip_proj"),
    key_value_modules=("k_proj", "v_proj"),
    tiny={
        "num_genes": 20,
        "feature_hidden_size": 16,
        "code_size": 8,
        "num_codes": 12,
        "graph_hidden_size": 12,
        "graph_output_size": 8,
        "num_clusters": 3,
    },
    also_needs=("scanpy", "igraph"),
)
