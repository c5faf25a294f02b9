"""What the package knows about UCE."""

from .family import Family

FAMILY = Family(
    name="uce",
    title="UCE",
    paper=(
        "Rosen et al. Universal Cell Embeddings: a foundation model for cell biology. bioRxiv (2023). "
        "doi:10.1101/2023.11.28.568918"
    ),
    repository="snap-stanford/UCE",
    code_license="MIT",
    weights_license="mit",
    weights_license_note="The licence of the authors' repository; the weight files carry none of their own.",
    redistributable=True,
    sizes={
        "4-layer": "4 layers, width 1280, 20 heads, 145,469 proteins and chromosomes of 8 species; 104 million "
        "weights beside the protein table (3 GB)",
        "33-layer": "33 layers; otherwise as the 4-layer model, with 675 million weights",
    },
    source_layout=(
        "a folder with one file of weights, such as `4layer_model.torch`, `species_chrom.csv`, "
        "`species_offsets.pkl` and the protein embeddings of the species wanted (`*_to_embedding_ESM2.pt`)"
    ),
    weights_from=("linked in the README of `snap-stanford/UCE`, with the tables that its script downloads"),
    encoding={
        "encoding": "chromosomes",
        "expects": "counts",
        "max_length": 1536,
        "n_draws": 1024,
        "whole_counts": True,
    },
    published_input=(
        "Raw counts with fractions cut off, of genes in at least 10 cells and of cells with at least 25 genes "
        "(`sclm_hf.published_filter`, left to the user)."
    ),
    published_tokens=(
        "1,024 genes drawn with replacement by the `log1p` of their counts, between the tokens of their "
        "chromosomes (`gene_places`, which a converted checkpoint brings along). The original does not seed the "
        "draws; here they are keyed by the cell."
    ),
    config="UCEConfig",
    auto_classes={
        "AutoModel": "UCEModel",
        "AutoModelForPreTraining": "UCEForMaskedExpression",
        "AutoModelForSequenceClassification": "UCEForSequenceClassification",
    },
    models=("UCEModel", "UCEForMaskedExpression", "UCEForSequenceClassification"),
    lora_target_modules=("q_proj", "k_proj", "v_proj", "o_proj"),
    processor="ChromosomeProcessor",
    processor_module="sclm_hf.modeling.uce.processing_uce",
    public=("published_filter",),
    cells=(
        "Trained on cells of human, mouse, mouse lemur, pig, rhesus and crab-eating macaque, zebrafish and "
        "tropical clawed frog; `species` says whose genes the data have. A cell is a random sample of its genes, "
        "keyed by its name and `seed`."
    ),
    embed_overrides={"padding_is_additive": False},
    no_objective=(
        "its authors published the model and how cells are embedded, but neither code nor settings of the "
        "pre-training: which genes are hidden, and how many are asked for"
    ),
    tiny={
        "protein_embedding_size": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "decoder_size": 32,
        "cell_embedding_size": 24,
        "expression_decoder_sizes": [16, 8],
    },
)
