"""From cell embeddings to counts: CellPLM's decoders and the losses over them (Wen et al., ICLR 2024)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_cellplm import CellPLMConfig

COVARIATES = ("batch", "dataset", "platform")
DECODED_WIDTH = 128
_MEANS, _DISPERSIONS = (1e-5, 1e6), (1e-4, 1e4)
_EPS = 1e-10


class GroupNorm(nn.GroupNorm):
    """Normalises quarters of the channels of each cell."""

    def __init__(self, size: int):
        super().__init__(4, size)


def make_norm(kind: str, size: int) -> nn.Module:
    """The normalisation that a configuration names, over the channels of a cell."""
    kinds = {"groupnorm": GroupNorm, "layernorm": nn.LayerNorm, "none": nn.Identity}
    return nn.RMSNorm(size, eps=1e-6) if kind == "rmsnorm" else kinds[kind](size)


def covariate_sizes(config: CellPLMConfig) -> dict[str, int]:
    """Covariates that the decoder knows, and how many values each has."""
    sizes = zip(COVARIATES, (config.num_batches, config.num_datasets, config.num_platforms), strict=True)
    return {name: size for name, size in sizes if size > 0}


def with_rows(table: nn.Linear | nn.Embedding, count: int) -> nn.Linear | nn.Embedding:
    """The same table with `count` rows; new ones are 0."""
    old = table.weight
    if isinstance(table, nn.Embedding):
        larger = nn.Embedding(count, old.shape[1])
    else:
        larger = nn.Linear(old.shape[1], count)
    larger.to(old.device, old.dtype)
    with torch.no_grad():
        kept = min(count, len(old))
        for ours, theirs in zip(larger.parameters(), table.parameters(), strict=True):
            ours.zero_()[:kept] = theirs[:kept]
    return larger


class Block(nn.Module):
    """A hidden layer: linear map, PReLU, dropout, normalisation."""

    def __init__(self, config: CellPLMConfig, width: int, size: int):
        super().__init__()
        self.linear = nn.Linear(width, size)
        self.activation = nn.PReLU()
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.norm = make_norm(config.norm, size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.norm(self.dropout(self.activation(self.linear(hidden_states))))


class CovariateEmbedding(nn.Module):
    """What a covariate adds to a hidden layer."""

    def __init__(self, config: CellPLMConfig, count: int, size: int):
        super().__init__()
        self.missing = config.missing_covariate
        self.embedding = nn.Embedding(count, size)
        self.activation = nn.PReLU()
        self.norm = make_norm(config.norm, size)

    def forward(self, labels: Tensor | None) -> Tensor:
        if labels is not None:
            found = self.embedding(labels)
        else:
            table = self.embedding.weight.detach()
            found = (table.sum(0) if self.missing == "sum" else table.mean(0)).unsqueeze(0)
        return self.norm(self.activation(found))


class Decoder(nn.Module):
    """Something with a row for each gene in its last layers."""

    gene_tables: tuple[str, ...] = ("output",)

    def resize(self, vocab_size: int) -> None:
        """Decode as many genes."""
        for name in self.gene_tables:
            setattr(self, name, with_rows(getattr(self, name), vocab_size))


class NegativeBinomialDecoder(Decoder):
    """Mean and dispersion of a negative binomial distribution for each gene: `"nbmlp"`."""

    gene_tables = ("mean", "dispersion")

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        width, sizes = config.decoder_hidden_size, covariate_sizes(config)
        widths = [config.cell_embedding_size] + [width] * (config.num_decoder_layers - 1)
        self.layers = nn.ModuleList(Block(config, before, width) for before in widths[:-1])
        self.covariates = nn.ModuleList(
            nn.ModuleDict({name: CovariateEmbedding(config, size, width) for name, size in sizes.items()})
            for _ in widths[:-1]
        )
        self.hidden = nn.Linear(width, DECODED_WIDTH)
        self.mean = nn.Linear(DECODED_WIDTH, config.vocab_size)
        self.dispersion = nn.Embedding(config.vocab_size, 1)

    def forward(
        self, cell_embedding: Tensor, genes: Tensor, covariates: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """(cells, genes) means and (genes,) dispersions of the counts of `genes`."""
        hidden_states = cell_embedding
        for layer, added in zip(self.layers, self.covariates, strict=True):
            hidden_states = layer(hidden_states)
            for name, embedding in added.items():
                hidden_states = hidden_states + embedding(covariates.get(name))
        hidden_states = F.relu(self.hidden(hidden_states))
        mean = F.linear(hidden_states, self.mean.weight[genes], self.mean.bias[genes])
        dispersion = self.dispersion(genes).squeeze(-1)
        return mean.exp().clamp(*_MEANS), dispersion.exp().clamp(*_DISPERSIONS)


class MLPDecoder(Decoder):
    """Counts directly, with one-hot covariates beside the input of each hidden layer: `"mlp"`."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        width, self.sizes = config.decoder_hidden_size, covariate_sizes(config)
        widths = [config.cell_embedding_size] + [width] * (config.num_decoder_layers - 1)
        beside = sum(self.sizes.values())
        self.layers = nn.ModuleList(Block(config, before + beside, width) for before in widths[:-1])
        self.output = nn.Linear(widths[-1], config.vocab_size)

    def forward(
        self, cell_embedding: Tensor, genes: Tensor, covariates: dict[str, Tensor | None]
    ) -> tuple[Tensor, None]:
        beside = [self._one_hot(name, size, covariates, cell_embedding) for name, size in self.sizes.items()]
        hidden_states = cell_embedding
        for layer in self.layers:
            hidden_states = layer(torch.cat([hidden_states, *beside], dim=-1))
        return F.relu(F.linear(hidden_states, self.output.weight[genes], self.output.bias[genes])), None

    def _one_hot(self, name: str, size: int, covariates: dict[str, Tensor | None], like: Tensor) -> Tensor:
        if covariates.get(name) is None:
            return like.new_zeros(len(like), size)
        return F.one_hot(covariates[name], size).to(like.dtype)


class ResidualMLPDecoder(Decoder):
    """Counts from all hidden layers together, each with the embedding of the batch added: `"resmlp"`."""

    def __init__(self, config: CellPLMConfig):
        super().__init__()
        width = config.decoder_hidden_size
        widths = [config.cell_embedding_size] + [width] * (config.num_decoder_layers - 1)
        self.layers = nn.ModuleList(Block(config, before, width) for before in widths[:-1])
        self.batches = nn.Embedding(max(config.num_batches, 1), width)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width * len(self.layers), config.vocab_size)
        self.activation = nn.PReLU()

    def forward(
        self, cell_embedding: Tensor, genes: Tensor, covariates: dict[str, Tensor | None]
    ) -> tuple[Tensor, None]:
        hidden_states, outputs = cell_embedding, []
        for layer in self.layers:
            hidden_states = layer(hidden_states)
            if covariates.get("batch") is not None:
                hidden_states = hidden_states + self.norm(self.batches(covariates["batch"]))
            outputs.append(hidden_states)
        joined = torch.cat(outputs, dim=-1)
        return self.activation(F.linear(joined, self.output.weight[genes], self.output.bias[genes])), None


DECODERS = {"nbmlp": NegativeBinomialDecoder, "mlp": MLPDecoder, "resmlp": ResidualMLPDecoder}


def negative_binomial_nll(counts: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    """(cells, genes) negative log-likelihood of counts."""
    counts, mean, dispersion = counts.float(), mean.float(), dispersion.float()
    inverse = dispersion + _EPS
    combinations = torch.lgamma(inverse) + torch.lgamma(counts + 1) - torch.lgamma(counts + inverse)
    likelihood = (dispersion + counts) * torch.log1p(mean / inverse) + counts * (inverse.log() - (mean + _EPS).log())
    return combinations + likelihood


def rescaled(mean: Tensor, counts: Tensor) -> Tensor:
    """Means that add up in each cell to what the counts do; 0 in cells where nothing is asked for."""
    # nothing hidden: 0 / 0 would have no gradient
    total = mean.sum(1, keepdim=True).clamp(min=torch.finfo(mean.dtype).tiny)
    return mean * (counts.sum(1, keepdim=True) / total)
