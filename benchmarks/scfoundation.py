"""How fast scFoundation embeds cells beside the published procedure, with random weights of the released size.

    python benchmarks/scfoundation.py --output benchmarks/results/scfoundation.json

The published procedure is built here from its description: one cell at a time, all 19,264 genes as a row, normalised
by pandas, packed by a top-k over positions, torch's own encoder layers in float32 (which take their fused path in
evaluation), the four parts of the cell joined. Ours is `embed` on the same counts, with batches of its own choice.
Both have the same weights, so that their vectors can be compared. Each cell has 2,000 expressed genes.
"""

import anndata
import numpy as np
import pandas as pd
import scipy.sparse
import torch
from beside_published import in_turn, reach, report
from torch import Tensor, nn

from sclm_hf import (
    CellProcessor,
    ExpressionFeatureExtractor,
    GeneTokenizer,
    ScFoundationConfig,
    ScFoundationModel,
    embed,
)

GOALS = {"float32": 2.5, "bfloat16": 5.0}
NUM_GENES = 19_264
NUM_EXPRESSED = 2_000
SPECIAL_TOKENS = ("<T>", "<S>", "<pad>")


def make_cells(num_cells: int) -> anndata.AnnData:
    """Counts of `NUM_EXPRESSED` genes a cell, most of them small."""
    random = np.random.default_rng(0)
    rows = [np.sort(random.choice(NUM_GENES, NUM_EXPRESSED, replace=False)) for _ in range(num_cells)]
    counts = random.geometric(0.4, num_cells * NUM_EXPRESSED).astype(np.float32)
    indptr = np.arange(num_cells + 1) * NUM_EXPRESSED
    cells = anndata.AnnData(scipy.sparse.csr_matrix((counts, np.concatenate(rows), indptr), (num_cells, NUM_GENES)))
    cells.var_names = [f"G{number:05d}" for number in range(NUM_GENES)]
    cells.obs_names = [f"cell{number}" for number in range(num_cells)]
    return cells


class PublishedProcedure(nn.Module):
    """The encoder in torch's own layers, with the weights of ours."""

    def __init__(self, model: ScFoundationModel):
        super().__init__()
        self.config, self.embeddings, self.norm = model.config, model.embeddings, model.norm
        self.layers = nn.ModuleList(self._layer(layer) for layer in model.layers)

    def _layer(self, ours: nn.Module) -> nn.TransformerEncoderLayer:
        config, state = self.config, ours.state_dict()
        theirs = nn.TransformerEncoderLayer(
            config.hidden_size, config.num_attention_heads, config.intermediate_size, 0.1, batch_first=True
        )
        for kind in ("weight", "bias"):
            parts = [state.pop(f"self_attn.{part}_proj.{kind}") for part in "qkv"]
            state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
            state[f"self_attn.out_proj.{kind}"] = state.pop(f"self_attn.o_proj.{kind}")
        theirs.load_state_dict(state)
        return theirs

    def embed(self, cells: anndata.AnnData) -> np.ndarray:
        frame = pd.DataFrame(cells.X.toarray(), index=cells.obs_names, columns=cells.var_names)
        return np.concatenate([self.embed_cell(frame.iloc[number]) for number in range(len(frame))])

    def embed_cell(self, counts: pd.Series) -> np.ndarray:
        total = counts.sum()
        row = [*np.log1p(counts / total * 1e4).tolist(), 4.0, np.log10(total)]
        values = torch.tensor(row, dtype=torch.float32).unsqueeze(0)
        ids = torch.arange(values.shape[1]).unsqueeze(0)
        expressed = values > 0
        packed, padding = pack(values, expressed, self.config.pad_value)
        positions, _ = pack(ids, expressed, self.config.pad_value)
        hidden = self.embeddings.values(packed) + self.embeddings.genes(positions)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        hidden = self.norm(hidden)
        genes = hidden[:, :-2]
        return torch.cat([hidden[:, -1], hidden[:, -2], genes.max(1).values, genes.mean(1)], dim=1).numpy()


def pack(values: Tensor, chosen: Tensor, pad_value: float) -> tuple[Tensor, Tensor]:
    """The chosen values of each row, in order and to the left, and which of the places are padding."""
    count = int(chosen.sum(1).max())
    order = torch.arange(values.shape[1], 0, -1, dtype=torch.float32).expand_as(values)
    places = (chosen.float() * 20_000 + order).topk(count).indices
    packed = torch.cat([values, torch.full((len(values), count), pad_value, dtype=values.dtype)], dim=1)
    number = torch.arange(count).expand(len(values), -1)
    places = torch.where(number < chosen.sum(1, keepdim=True), places, values.shape[1])
    packed = packed.gather(1, places)
    return packed, packed == pad_value


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return (first * second).sum(axis=1) / norms


def make_models(layers: int, cells: anndata.AnnData) -> tuple[dict[str, ScFoundationModel], CellProcessor]:
    names = [*cells.var_names, *SPECIAL_TOKENS]
    tokenizer = GeneTokenizer.from_genes({name: i for i, name in enumerate(names)}, special_tokens=SPECIAL_TOKENS)
    model = ScFoundationModel(ScFoundationConfig(num_hidden_layers=layers)).eval()
    half = ScFoundationModel(model.config).to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    extractor = ExpressionFeatureExtractor.for_family("scfoundation")
    return {"float32": model, "bfloat16": half}, CellProcessor(extractor, tokenizer)


def measure(num_cells: int, rounds: int, threads: int, layers: int) -> dict:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cells = make_cells(num_cells)
    models, processor = make_models(layers, cells)
    published = PublishedProcedure(models["float32"]).eval()

    @torch.no_grad()
    def run_published() -> np.ndarray:
        return published.embed(cells)

    runs = {name: lambda name=name: embed(cells, models[name], processor).obsm["X_scfoundation"] for name in GOALS}
    seconds, vectors = in_turn({"published": run_published, **runs}, rounds)
    results = {"published": {"seconds_per_cell": seconds["published"] / num_cells}}
    for name, goal in GOALS.items():
        results[name] = {
            "seconds_per_cell": seconds[name] / num_cells,
            **reach(seconds["published"] / seconds[name], goal),
            "smallest_cosine": float(cosines(vectors["published"], vectors[name]).min()),
            "largest_difference": float(np.abs(vectors["published"] - vectors[name]).max()),
        }
    return results


if __name__ == "__main__":
    report(__doc__, measure, cells=3, rounds=3)
