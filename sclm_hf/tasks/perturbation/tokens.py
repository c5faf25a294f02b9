"""Cells with genes deleted or over-expressed, as token lists.

Source: Theodoris et al., Nature 618, 616-624 (2023), doi:10.1038/s41586-023-06139-9, "In silico perturbation": a
deleted gene leaves the ranking, an over-expressed gene goes to its top. For encodings with values, where there is no
ranking, an over-expressed gene gets the highest value of the cell; that is ours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ...tokenization.encodings.cells import CellTokens


@dataclass(frozen=True)
class TokenCell:
    """The tokens of a cell.

    Attributes:
        ids: (tokens,) token ids, special ones included.
        values: (tokens,) their values; None where the encoding has none.
    """

    ids: np.ndarray
    values: np.ndarray | None = None

    def take(self, positions: np.ndarray) -> "TokenCell":
        """The cell with only the tokens at `positions`."""
        return TokenCell(self.ids[positions], None if self.values is None else self.values[positions])


@dataclass(frozen=True)
class PerturbedCell:
    """A perturbed cell beside the cell to compare it with.

    Attributes:
        cell: the perturbed tokens.
        reference: the original tokens without those that the perturbation pushed out of the cell.
        positions: (genes,) where the genes that were not perturbed stand in `cell`.
        reference_positions: (genes,) where they stand in `reference`.
        n_pushed_out: how many were pushed out.
    """

    cell: TokenCell
    reference: TokenCell
    positions: np.ndarray
    reference_positions: np.ndarray
    n_pushed_out: int


def perturb_cell(
    cell: TokenCell, tokens: tuple[int, ...], mode: str, special_ids: np.ndarray, max_length: int
) -> PerturbedCell:
    """Delete or over-express the genes `tokens` of a cell.

    Over-expressed genes that the cell lacks are put in. A cell that is then longer than `max_length` loses its last
    genes, and so does the reference, so that both hold the same.

    Args:
        cell: the tokens of the cell; special ones stand first and last.
        tokens: genes to perturb together; over-expressed ones stand in this order.
        mode: `"delete"` or `"overexpress"`.
        special_ids: ids that are no genes.
        max_length: most tokens of a cell, special ones included.
    """
    perturbed, special = _among(cell.ids, tokens), _among(cell.ids, special_ids)
    kept = np.flatnonzero(~perturbed)
    n_added = 0 if mode == "delete" else len(tokens)
    n_pushed_out = max(kept.size + n_added - max_length, 0)
    if n_pushed_out:
        out = kept[~special[kept]][-n_pushed_out:]
        kept = np.setdiff1d(kept, out)
        perturbed_and_kept = np.setdiff1d(np.arange(cell.ids.size), out)
    else:
        perturbed_and_kept = np.arange(cell.ids.size)
    reference = cell.take(perturbed_and_kept)
    # -1 stands for an over-expressed gene
    source = np.insert(kept, _top(special[kept]), np.full(n_added, -1)) if n_added else kept
    changed = _with_added(cell, source, tokens, special)
    is_kept_gene = (source >= 0) & ~special[source]
    return PerturbedCell(
        cell=changed,
        reference=reference,
        positions=np.flatnonzero(is_kept_gene),
        reference_positions=np.searchsorted(perturbed_and_kept, source[is_kept_gene]),
        n_pushed_out=n_pushed_out,
    )


def separate(tokens: "CellTokens") -> Iterator[TokenCell]:
    """The cells one by one."""
    for start, length in zip(tokens.starts, tokens.lengths, strict=True):
        place = slice(start, start + length)
        yield TokenCell(tokens.ids[place], tokens.values[place] if tokens.values.size else None)


def ragged(cells: Sequence[TokenCell]) -> "CellTokens":
    """The cells as `CellProcessor.padded` takes them."""
    from ...tokenization.encodings.cells import CellTokens

    lengths = np.array([cell.ids.size for cell in cells], np.int64)
    values = [cell.values for cell in cells if cell.values is not None]
    return CellTokens(
        ids=np.concatenate([cell.ids for cell in cells]).astype(np.int32),
        values=np.concatenate(values).astype(np.float32) if values else np.empty(0, np.float32),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
    )


def _among(ids: np.ndarray, few: Sequence[int] | np.ndarray) -> np.ndarray:
    """`np.isin`, which takes longer to begin than this to end."""
    return (ids[:, None] == np.asarray(few)).any(axis=1)


def _top(special: np.ndarray) -> int:
    """Position of the first gene."""
    return int(special.argmin()) if special.size and not special.all() else special.size


def _with_added(cell: TokenCell, source: np.ndarray, tokens: tuple[int, ...], special: np.ndarray) -> TokenCell:
    added = source < 0
    ids = cell.ids[source]
    if added.any():
        ids[added] = tokens
    if cell.values is None:
        return TokenCell(ids)
    values = cell.values[source]
    if added.any():
        values[added] = cell.values[~special].max()
    return TokenCell(ids, values)
