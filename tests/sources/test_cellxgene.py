"""Files in the layout of CELLxGENE: counts in `raw.X`, genes by Ensembl id or `soma_joinid`, names beside them."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from sclm_hf import (
    CellCorpus,
    CellProcessor,
    ExpressionFeatureExtractor,
    GeneTokenizer,
    ScGPTConfig,
    ScGPTModel,
    embed,
)
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.errors import GeneCoverageError
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.sources.opening import open_source
from sclm_hf.sources.survey import survey_cells
from sclm_hf.tasks.files.file_to_file import run_files

HUMAN = {
    "TP53": "ENSG00000141510",
    "CD3E": "ENSG00000198851",
    "MS4A1": "ENSG00000156738",
    "NKG7": "ENSG00000105374",
    "LYZ": "ENSG00000090382",
    "GNLY": "ENSG00000115523",
}
MOUSE = {
    "Trp53": "ENSMUSG00000059552",
    "Cd3e": "ENSMUSG00000032093",
    "Ms4a1": "ENSMUSG00000024673",
    "Nkg7": "ENSMUSG00000004612",
}


def make_file(folder, genes, index, *, spike_in=False):
    """Columns of `var` as the schema of CELLxGENE (or the census) prescribes them; `X` is normalised."""
    rng = np.random.default_rng(0)
    symbols, ids = list(genes), list(genes.values())
    var = pd.DataFrame({"feature_name": pd.Categorical(symbols), "feature_is_filtered": False})
    var["feature_reference"] = "NCBITaxon:9606" if ids[0].startswith("ENSG") else "NCBITaxon:10090"
    var["feature_biotype"], var["feature_length"] = "gene", 1000
    if index == "soma_joinid":
        var["feature_id"] = ids
        var.index = pd.Index(map(str, range(len(ids))), name="soma_joinid")
    else:
        var.index = ids
    counts = rng.poisson(3, (40, len(ids))).astype(np.float32)
    counts[:, 0] += 1
    cells = anndata.AnnData(sp.csr_matrix(counts), obs=pd.DataFrame(index=[f"c{i}" for i in range(40)]), var=var)
    if spike_in:
        extra = anndata.AnnData(sp.csr_matrix(np.ones((40, 1), np.float32)), obs=cells.obs)
        extra.var = pd.DataFrame(
            {"feature_name": ["ERCC-00002 (spike-in control)"], "feature_biotype": ["spike-in"]}, index=["ERCC-00002"]
        ).assign(feature_is_filtered=False, feature_reference="NCBITaxon:32630", feature_length=1000)
        cells = anndata.concat([cells, extra], axis=1, merge="first")
        cells.var = pd.concat([var, extra.var])
    cells.raw = cells
    cells.X = cells.X.log1p()
    cells.write_h5ad(folder / "cells.h5ad")
    return cells, counts


@pytest.fixture(scope="module")
def processor():
    extractor = ExpressionFeatureExtractor.for_family("scgpt", max_length=25, n_bins=7)
    return CellProcessor(extractor, GeneTokenizer.from_genes(list(HUMAN)))


@pytest.mark.parametrize("index", ["ensembl", "soma_joinid"])
def test_counts_and_names_are_found(tmp_path, processor, index):
    cells, counts = make_file(tmp_path, HUMAN, index)
    for source in (open_source("cells", tmp_path / "cells.h5ad"), InMemorySource(cells)):
        assert source.data_name == "raw"
        np.testing.assert_array_equal(source.read(np.arange(40)).toarray(), counts)
        names, ids = source.genes()
        assert (list(names), list(ids)) == (list(HUMAN), list(HUMAN.values()))
        assert survey_cells(source, processor).coverage.count_share == 1
    (coverage,) = CellCorpus(tmp_path / "cells.h5ad", processor).coverage.values()
    assert set(coverage.matched) == set(HUMAN)


def test_what_the_biotype_calls_no_gene_is_left_out(tmp_path, processor):
    make_file(tmp_path, HUMAN, "ensembl", spike_in=True)
    surveyed = survey_cells(open_source("cells", tmp_path / "cells.h5ad"), processor)
    assert surveyed.gene_ids[-1] == -1 and surveyed.coverage.not_genes == ("ERCC-00002 (spike-in control) [spike-in]",)


@pytest.mark.parametrize("index", ["ensembl", "soma_joinid"])
def test_the_species_is_told_by_the_ids(tmp_path, processor, index):
    make_file(tmp_path, MOUSE, index)
    source = open_source("cells", tmp_path / "cells.h5ad")
    coverage = survey_cells(source, processor).coverage
    assert coverage.species == "mouse" and ("Trp53", "TP53") in coverage.renamed
    assert CellCorpus(tmp_path / "cells.h5ad", processor).coverage["cells"].species == "mouse"
    with pytest.raises(GeneCoverageError, match=r"cells\.h5ad`: .* look like mouse genes.*species=\"mouse\""):
        survey_cells(source, processor, "human")


@pytest.mark.filterwarnings("ignore:The embeddings")
@pytest.mark.parametrize("genes", [HUMAN, MOUSE])
def test_files_are_embedded_and_built_from_as_they_are(tmp_path, processor, genes):
    cells, counts = make_file(tmp_path, genes, "ensembl", spike_in=genes is HUMAN)
    ids = {f"{name}_token_id": processor.tokenizer.gene_vocabulary[f"<{name}>"] for name in ("pad", "cls")}
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ScGPTModel(ScGPTConfig(vocab_size=processor.tokenizer.gene_vocabulary.size, **sizes, **ids))
    (written,) = run_files("embed", tmp_path / "cells.h5ad", tmp_path / "embedded.h5ad", model, processor)
    embedded = embed(cells, model, processor).obsm["X_scgpt"]
    np.testing.assert_array_equal(anndata.read_h5ad(written.path).obsm["X_scgpt"], embedded)
    build_corpus(tmp_path / "cells.h5ad", tmp_path / "shards")
    (source,) = CellCorpus(tmp_path / "shards", processor).sources
    np.testing.assert_array_equal(source.read(np.arange(40)).toarray()[:, : len(genes)], counts)
