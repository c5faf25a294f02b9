"""How fast `embed` is beside the published procedure, with a random model of the whole-human size.

    python benchmarks/embedding.py --cells 48 --output benchmarks/results/embedding.json

The published procedure is built here from its description: cells of at most 1,200 genes, binned one by one with numpy,
in batches of 64 in file order padded to their longest, float32, torch's own encoder layers (which take their fused
path in evaluation). Both sides have the same weights and see the same genes of each cell, so that their vectors can be
compared. Cells are drawn like an atlas: log-normal library sizes, about 1,650 expressed genes.
"""

import anndata
import numpy as np
import scipy.sparse
import torch
from beside_published import in_turn, reach, report
from torch import nn

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer, ScGPTConfig, ScGPTModel, embed
from sclm_hf.tokenization.encodings.keys import hash_names

GOALS = {"float32": 1.5, "bfloat16": 3.0}
NUM_GENES = 20_000


def make_cells(num_cells: int) -> anndata.AnnData:
    """Counts whose shape is that of an atlas."""
    random = np.random.default_rng(0)
    gene_means = random.lognormal(-3.5, 2.0, NUM_GENES)
    gene_means *= 3000 / gene_means.sum()
    rates = random.lognormal(0, 0.5, (num_cells, 1)) * gene_means
    counts = random.poisson(random.gamma(2.0, rates / 2.0)).astype(np.float32)
    cells = anndata.AnnData(scipy.sparse.csr_matrix(counts))
    cells.var_names = [f"G{number:05d}" for number in range(NUM_GENES)]
    cells.obs_names = [f"cell{number}" for number in range(num_cells)]
    return cells


class PublishedProcedure(nn.Module):
    """The encoder in torch's own layers, with the weights of ours."""

    def __init__(self, model: ScGPTModel):
        super().__init__()
        config = model.config
        self.embeddings = model.embeddings
        layer = nn.TransformerEncoderLayer(
            config.hidden_size, config.num_attention_heads, config.intermediate_size, 0.2, batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers)
        for theirs, ours in zip(self.encoder.layers, model.layers, strict=True):
            theirs.load_state_dict(self.translate(ours.state_dict()))

    @staticmethod
    def translate(state: dict) -> dict:
        attention = {
            f"self_attn.in_proj_{kind}": torch.cat([state.pop(f"self_attn.{part}_proj.{kind}") for part in "qkv"])
            for kind in ("weight", "bias")
        }
        output = {f"self_attn.out_proj.{kind}": state.pop(f"self_attn.o_proj.{kind}") for kind in ("weight", "bias")}
        return attention | output | state

    def embed(self, cells: anndata.AnnData, processor: CellProcessor, pad_id: int, batch_size: int = 64) -> np.ndarray:
        gene_ids = processor.map_genes(cells.var_names).gene_ids
        cell_ids = hash_names(cells.obs_names)
        rows = []
        for start in range(0, cells.n_obs, batch_size):
            batch_rows = np.arange(start, min(start + batch_size, cells.n_obs))
            for row in batch_rows:
                bin_with_numpy(cells.X[row].data)
            batch = processor.encode(cells.X, gene_ids, cell_ids=cell_ids[batch_rows], rows=batch_rows)
            ids, values = torch.from_numpy(batch["input_ids"]), torch.from_numpy(batch["expression_values"])
            hidden = self.embeddings.add_values(self.embeddings.embed_genes(ids), values)
            rows.append(self.encoder(hidden, src_key_padding_mask=ids == pad_id)[:, 0].numpy())
        vectors = np.concatenate(rows)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def bin_with_numpy(values: np.ndarray, num_bins: int = 51) -> np.ndarray:
    """The published binning of one cell (its time counts; the tokens compared come from our processor)."""
    edges = np.quantile(values, np.linspace(0, 1, num_bins - 1))
    left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
    return np.ceil(np.random.default_rng(0).random(len(values)) * (right - left) + left)


def measure(num_cells: int, rounds: int, threads: int, layers: int) -> dict:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cells = make_cells(num_cells)
    processor = CellProcessor(
        ExpressionFeatureExtractor.for_family("scgpt"), GeneTokenizer.from_genes(list(cells.var_names))
    )
    vocabulary = processor.tokenizer.gene_vocabulary
    special = {"pad_token_id": vocabulary["<pad>"], "cls_token_id": vocabulary["<cls>"]}
    model = ScGPTModel(ScGPTConfig(vocab_size=vocabulary.size, num_hidden_layers=layers, **special)).eval()
    models = {"float32": model, "bfloat16": ScGPTModel(model.config).to(torch.bfloat16)}
    models["bfloat16"].load_state_dict(model.state_dict())
    published = PublishedProcedure(model).eval()

    @torch.no_grad()
    def run_published() -> np.ndarray:
        return published.embed(cells, processor, special["pad_token_id"])

    runs = {name: lambda name=name: embed(cells, models[name], processor).obsm["X_scgpt"] for name in GOALS}
    best, vectors = in_turn({"published": run_published, **runs}, rounds)
    results = {"published": {"cells_per_second": num_cells / best["published"]}}
    for name, goal in GOALS.items():
        results[name] = {
            "cells_per_second": num_cells / best[name],
            **reach(best["published"] / best[name], goal),
            "smallest_cosine": float((vectors["published"] * vectors[name]).sum(axis=1).min()),
        }
    return results


if __name__ == "__main__":
    report(__doc__, measure, cells=48, rounds=2)
