"""What STGRNS reads: the expression of two genes over cells in their order, and known pairs to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from transformers import BatchFeature

from ...errors import ConfigurationError
from ...logging import warn
from ...tokenization.genes.known_networks import read_network
from ..cells import Counts, of_genes, read_counts
from ..processing import Examples, SpecialistProcessor

PAIRS = ("balanced", "all")
SPLITS = ("regulators", "pairs")
MOST_VALUES = 2**21
"""Values of a batch of pairs that are scored together."""


@dataclass
class STGRNSProcessor(SpecialistProcessor):
    """Logarithms of the expression of a regulator and of a target, each (pairs, cells).

    Cells count in their order: windows hold cells that follow one another, so that those of a trajectory should stand
    by pseudotime or time point. The model learns from pairs of `regulators` and `genes`, of which `edges` are known;
    all others count as none.

    Attributes:
        regulators: genes with a known target.
        genes: genes with a known regulator.
        edges: numbers of the pairs that are known edges, row by row of (regulators, genes).
        held_out: numbers of the pairs that the model does not learn from.
        layer: the layer with the counts; None = as everywhere: `layers["counts"]`, `raw`, `X`.
        order_key: column of `obs` with numbers to order the cells by, such as pseudotime; None = as in the file.
        window_size: cells per window.
        target_sum: counts per cell before the logarithm; None = counts as they are.
        pseudocount: what is added before the logarithm to base 10.
        n_top_genes: how many of the most variable genes are regulators and targets of training, at most.
        min_share: share of cells that must express these.
        pairs: "balanced", as many pairs without an edge as with one, of the same regulator as far as there are; or
            "all", which the original code reads.
        self_pairs: whether a gene is paired with itself, as in the original.
        split: what a share of is held out, for `grn` to be scored on: "regulators" with all their pairs, or "pairs",
            the same share of edges and of others; None = nothing.
        test_share: which share.
        split_seed: seed of this draw.
    """

    learnt: ClassVar[tuple[str, ...]] = ("regulators", "genes", "edges", "held_out")

    regulators: list[str] = field(default_factory=list)
    genes: list[str] = field(default_factory=list)
    edges: list[int] = field(default_factory=list)
    held_out: list[int] = field(default_factory=list)
    layer: str | None = None
    order_key: str | None = None
    window_size: int = 100
    target_sum: float | None = 1e4
    pseudocount: float = 0.01
    n_top_genes: int = 1500
    min_share: float = 0.1
    pairs: str = "balanced"
    self_pairs: bool = False
    split: str | None = None
    test_share: float = 0.2
    split_seed: int = 0

    @classmethod
    def fit(cls, cells: Any, *, network: Any = None, layer: str | None = None, **settings: Any) -> Self:
        """The processor of a new model for these cells.

        Args:
            cells: the cells to train on.
            network: known pairs: a file as `grn` takes it for `network`, or a data frame with the columns `regulator`
                and `target`.
            layer, **settings: as the class says.

        Raises:
            ConfigurationError: there are no known pairs between variable genes of these cells, too few cells for a
                window, or settings that mean nothing.
        """
        processor = cls(layer=layer, **settings)
        processor._check_settings()
        if network is None:
            raise ConfigurationError(
                "STGRNS learns from known pairs: name a file with the columns `regulator` and `target` with `network` "
                "(`--set network=FILE`)."
            )
        known = _known_pairs(network)
        counts = read_counts(cells, layer)
        processor._check_windows(len(counts.totals), "choose a smaller `window_size`")
        processor._order(cells)
        processor._choose_pairs(known, counts)
        processor._hold_out()
        return processor

    def check_learnt(self) -> None:
        most = len(self.regulators) * len(self.genes)
        if not all(0 <= pair < most for pair in (*self.edges, *self.held_out)):
            raise ValueError(f"`edges` and `held_out` must be numbers of pairs, from 0 to below {most:,}.")
        self._check_settings()

    def config_settings(self) -> dict[str, Any]:
        names = {0: "no edge", 1: "edge"}
        labels = {name: number for number, name in names.items()}
        return {"window_size": self.window_size, "id2label": names, "label2id": labels}

    def values(self, cells: Any, genes: Sequence[str]) -> np.ndarray:
        """(genes, cells) float32, logarithms to base 10 of the expression, cells in their order.

        Raises:
            GeneCoverageError: fewer than half of the genes are measured.
            ExpressionError: the values are no counts.
        """
        return self._logarithms(of_genes(read_counts(cells, self.layer), genes, "network")).T[:, self._order(cells)]

    def __call__(
        self, cells: Any, *, regulators: Sequence[str], targets: Sequence[str], return_tensors: str | None = None
    ) -> BatchFeature:
        """`regulator_values` and `target_values`, each (pairs, cells) float32, for the pairs that two lists make.

        Raises:
            ConfigurationError: the lists differ in length.
            GeneCoverageError, ExpressionError: as for `values`.
        """
        if len(regulators) != len(targets):
            raise ConfigurationError(
                f"`regulators` and `targets` make pairs, and are {len(regulators):,} and {len(targets):,}."
            )
        names = sorted({*regulators, *targets})
        place, values = {name: number for number, name in enumerate(names)}, self.values(cells, names)
        inputs = {
            "regulator_values": values[[place[name] for name in regulators]],
            "target_values": values[[place[name] for name in targets]],
        }
        return BatchFeature(inputs, tensor_type=return_tensors)

    def examples(self, cells: Any, seed: int) -> Examples:
        chosen, labels = self.pairs_to_learn(np.random.default_rng([seed, 1]))
        rows, columns = np.divmod(chosen, len(self.genes))
        of_regulators, of_targets = self.values(cells, self.regulators), self.values(cells, self.genes)

        def make(numbers: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
            return {
                "regulator_values": of_regulators[rows[numbers]],
                "target_values": of_targets[columns[numbers]],
                "labels": labels[numbers],
            }

        return Examples(len(chosen), make)

    def results(
        self, verb: str, model: Any, cells: Any, *, regulators: Sequence[str], targets: Sequence[str], **settings: Any
    ) -> np.ndarray:
        """(regulators, targets) float32, the probability of an edge."""
        self._check_windows(
            cells.n_obs, "more of these (`max_cells`, `--max-cells`), or train a model with a smaller `window_size`"
        )
        of_regulators, of_targets = self.values(cells, regulators), self.values(cells, targets)
        scores = np.empty(len(regulators) * len(targets), np.float32)
        size = max(1, MOST_VALUES // of_targets.shape[1] // 2)
        for start in range(0, len(scores), size):
            rows, columns = np.divmod(np.arange(start, min(start + size, len(scores))), len(targets))
            pair = [torch.from_numpy(one).to(model.device) for one in (of_regulators[rows], of_targets[columns])]
            with torch.no_grad():
                scores[start : start + size] = model(*pair).logits.float().softmax(-1)[:, 1].cpu()
        return scores.reshape(len(regulators), len(targets))

    def seen_pairs(self, regulators: Sequence[str], targets: Sequence[str]) -> np.ndarray:
        learnt = np.ones(len(self.regulators) * len(self.genes), bool)
        learnt[self.held_out] = False
        learnt = learnt.reshape(len(self.regulators), len(self.genes))
        row_of, column_of = ({name: place for place, name in enumerate(one)} for one in (self.regulators, self.genes))
        rows, columns = (
            np.array([place.get(name, -1) for name in names], np.int64)
            for place, names in ((row_of, regulators), (column_of, targets))
        )
        return learnt[np.ix_(rows, columns)] & (rows >= 0)[:, None] & (columns >= 0)

    def pairs_to_learn(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the pairs to learn from, row by row of (regulators, genes), and 1 for those that are edges."""
        pairs = np.setdiff1d(self._candidates(), self.held_out)
        is_edge = np.isin(pairs, self.edges)
        if is_edge.all():
            raise ConfigurationError("Every pair is a known edge: there is nothing to tell them from.")
        if self.pairs == "balanced":
            chosen = np.concatenate([np.flatnonzero(is_edge), self._balance(pairs, is_edge, rng)])
            pairs, is_edge = pairs[chosen], is_edge[chosen]
        return pairs, is_edge.astype(np.int64)

    def _logarithms(self, counts: Counts) -> np.ndarray:
        """(cells, genes) float32."""
        values = counts.matrix.toarray()
        if self.target_sum is not None:
            values *= (self.target_sum / counts.totals)[:, None].astype(np.float32)
        return np.log10(values + np.float32(self.pseudocount))

    def _check_windows(self, n_cells: int, else_: str) -> None:
        """Refuse cells that fill no window, and tell of those that are left over."""
        if n_cells < self.window_size:
            raise ConfigurationError(
                f"{n_cells:,} cells do not fill one window of {self.window_size:,}: give more cells, or {else_}."
            )
        if left := n_cells % self.window_size:
            warn(
                f"{left:,} of {n_cells:,} cells, the last ones in their order, fill no window of {self.window_size:,} "
                "and are left out: give a multiple of `window_size`."
            )

    def _order(self, cells: Any) -> np.ndarray:
        """(cells,) their numbers in the order that counts.

        Raises:
            ConfigurationError: there is no such column, or it holds no numbers.
        """
        if self.order_key is None:
            return np.arange(cells.n_obs)
        if self.order_key not in cells.obs:
            raise ConfigurationError(
                f"`order_key` {self.order_key!r} is no column of `obs`, which has "
                f"{', '.join(map(str, cells.obs.columns)) or 'none'}."
            )
        column = cells.obs[self.order_key]
        try:
            values = column.to_numpy(dtype=float)
        except (TypeError, ValueError):
            values = np.full(1, np.nan)
        if not np.isfinite(values).all():
            raise ConfigurationError(
                f"`order_key`: `obs[{self.order_key!r}]` must hold a number for each cell, such as pseudotime."
            )
        return np.argsort(values, kind="stable")

    def _choose_pairs(self, network: Any, counts: Counts) -> None:
        """Find the known edges between variable genes."""
        variable = self._variable_genes(counts)
        pairs = {
            (str(regulator), str(target))
            for regulator, target in zip(network["regulator"], network["target"], strict=True)
            if str(regulator) in variable and str(target) in variable and (self.self_pairs or regulator != target)
        }
        if not pairs:
            raise ConfigurationError(
                f"None of the {len(network):,} known pairs, such as {network['regulator'].iloc[0]} and "
                f"{network['target'].iloc[0]}, is between two of the {len(variable):,} most variable genes that at "
                f"least {self.min_share:.0%} of the cells express, such as {', '.join(sorted(variable)[:3])}: name "
                "genes in the same way, or take more of them (`n_top_genes`, `min_share`)."
            )
        self.regulators = sorted({regulator for regulator, _ in pairs})
        self.genes = sorted({target for _, target in pairs})
        row_of, column_of = ({name: place for place, name in enumerate(one)} for one in (self.regulators, self.genes))
        self.edges = sorted(row_of[one] * len(self.genes) + column_of[other] for one, other in pairs)

    def _variable_genes(self, counts: Counts) -> set[str]:
        expressed = np.asarray((counts.matrix > 0).mean(axis=0)).ravel() > self.min_share
        columns = np.flatnonzero(expressed)
        if not len(columns):
            raise ConfigurationError(f"No gene is expressed in {self.min_share:.0%} of the cells: lower `min_share`.")
        names = [counts.genes[column] for column in columns]
        variances = self._logarithms(Counts(counts.matrix[:, columns], names, counts.totals)).var(axis=0)
        return {names[place] for place in np.argsort(-variances, kind="stable")[: self.n_top_genes]}

    def _candidates(self) -> np.ndarray:
        """Numbers of the pairs that there are."""
        is_pair = np.ones((len(self.regulators), len(self.genes)), bool)
        if not self.self_pairs:
            is_pair = np.array(self.regulators, object)[:, None] != np.array(self.genes, object)
        return np.flatnonzero(is_pair)

    def _hold_out(self) -> None:
        """Draw the pairs that the model does not learn from."""
        if self.split is None:
            return
        rng, pairs = np.random.default_rng(self.split_seed), self._candidates()
        if self.split == "regulators":
            n_drawn = max(1, round(self.test_share * len(self.regulators)))
            drawn = rng.permutation(len(self.regulators))[:n_drawn]
            self.held_out = pairs[np.isin(pairs // len(self.genes), drawn)].tolist()
        else:
            is_edge = np.isin(pairs, self.edges)
            parts = [
                rng.permutation(part)[: round(self.test_share * len(part))]
                for part in (pairs[is_edge], pairs[~is_edge])
            ]
            self.held_out = np.sort(np.concatenate(parts)).tolist()
        left = np.setdiff1d(self.edges, self.held_out)
        if not len(left) or len(left) == len(self.edges):
            raise ConfigurationError(
                f"Of {len(self.edges):,} known edges of {len(self.regulators):,} regulators, `split={self.split!r}` "
                f"leaves {len(left):,} to learn from: give a larger network, or another `test_share`."
            )

    def _balance(self, pairs: np.ndarray, is_edge: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Places of pairs without an edge, as many as there are edges, of the same regulators as far as there are."""
        order = rng.permutation(np.flatnonzero(~is_edge))
        rows = pairs // len(self.genes)
        wanted = np.bincount(rows[is_edge], minlength=len(self.regulators))
        own, others = [], []
        for place in order.tolist():
            (own if wanted[rows[place]] > 0 else others).append(place)
            wanted[rows[place]] -= 1
        return np.array([*own, *others][: int(is_edge.sum())], np.int64)

    def _check_settings(self) -> None:
        for name, known in (("pairs", PAIRS), ("split", (None, *SPLITS))):
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"`{name}` must be one of {', '.join(map(repr, known))}, got {getattr(self, name)!r}."
                )
        if not 0 < self.test_share < 1:
            raise ConfigurationError(f"`test_share` must be between 0 and 1, got {self.test_share}.")
        if self.window_size < 1 or self.n_top_genes < 2 or self.pseudocount <= 0:
            raise ConfigurationError(
                "`window_size` must be at least 1, `n_top_genes` 2, and `pseudocount` above 0; got "
                f"{self.window_size}, {self.n_top_genes} and {self.pseudocount}."
            )


def _known_pairs(network: Any) -> Any:
    """The data frame of known pairs of genes."""
    if isinstance(network, str | Path):
        return read_network(network)
    columns = getattr(network, "columns", None)
    if columns is None or any(name not in columns for name in ("regulator", "target")):
        got = type(network).__name__ if columns is None else f"the columns {', '.join(map(str, columns))}"
        raise ConfigurationError(
            "`network` (`--set network=FILE`) must be a file, or a data frame with the columns `regulator` and "
            f"`target`; got {got}."
        )
    return network
