"""A small model whose cells see the whole sample, and cells for it."""

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import torch
from torch import nn
from transformers import PreTrainedConfig

from sclm_hf import ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.modeling.common.base import SclmPreTrainedModel
from sclm_hf.modeling.common.outputs import CellClassifierOutput
from sclm_hf.tokenization.processing_sample import SampleProcessor

GENES = [f"GENE{number}" for number in range(30)]


class SampleConfig(PreTrainedConfig):
    model_type = "cellplm"

    def __init__(self, chunk_size=None, normalize_cell_embedding=False, **kwargs):
        self.chunk_size, self.normalize_cell_embedding = chunk_size, normalize_cell_embedding
        super().__init__(**kwargs)


class SampleForSequenceClassification(SclmPreTrainedModel):
    """Adds the mean of the sample to each cell; `calls` holds the cells and genes of each call."""

    config_class = SampleConfig

    def __init__(self, config):
        super().__init__(config)
        self.genes, self.classifier = nn.Embedding(len(GENES), 4), nn.Linear(4, config.num_labels)
        self.calls = []
        self.post_init()

    def forward(self, input_ids, expression_values, attention_mask):
        self.calls.append(tuple(expression_values.shape))
        assert attention_mask.shape == expression_values.shape[:1] and input_ids.shape == expression_values.shape[1:]
        assert expression_values.layout == torch.sparse_coo
        cells = torch.log1p(expression_values.to_dense()) @ self.genes(input_ids)
        cell_embedding = cells + cells.mean(0)
        return CellClassifierOutput(logits=self.classifier(cell_embedding), cell_embedding=cell_embedding)


def make_processor() -> SampleProcessor:
    tokenizer = GeneTokenizer.from_genes(GENES, special_tokens=())
    return SampleProcessor(ExpressionFeatureExtractor.for_family("cellplm"), tokenizer)


def make_model() -> SampleForSequenceClassification:
    torch.manual_seed(0)
    return SampleForSequenceClassification(SampleConfig(num_labels=3)).eval()


def make_cells(n_cells: int = 40) -> anndata.AnnData:
    """Cells of three interleaved samples of 8 to 20 cells, one gene of which the model does not know."""
    generator = np.random.default_rng(0)
    counts = generator.poisson(1.0, (n_cells, len(GENES) + 1)) * (generator.random((n_cells, len(GENES) + 1)) < 0.3)
    counts[:, 1] += 1
    batches = np.array(["c", "a", "b", "a", "c"] * (n_cells // 5))
    obs = pd.DataFrame({"batch": batches, "whole": "one"}, index=[f"cell {number}" for number in range(n_cells)])
    matrix = scipy.sparse.csr_matrix(counts.astype("float32"))
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=["unknown", *GENES[::-1]]))
