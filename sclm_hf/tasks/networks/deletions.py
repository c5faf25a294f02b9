"""How far the deletion of a regulator moves what a model says of its targets, and up or down."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...errors import ConfigurationError
from ..perturb import PERTURB, PerturbSettings
from ..perturbation.perturbing import perturb_source
from .genes import FEWEST_CELLS

if TYPE_CHECKING:
    from .evidence import NetworkCells

CLEAR = 1.959964
"""Standard errors from 0 of a change whose sign is told."""


class Deletions(NamedTuple):
    """What deleting regulators does to targets.

    Attributes:
        shifts: (regulators, targets) float32, 1 minus the mean cosine of the target to itself before; NaN for pairs
            that fewer than 10 cells hold.
        signs: (regulators, targets) int8, 1 where the model predicts less of the target without the regulator, -1
            where more, 0 where the 95 % interval over cells holds 0; None for a model without a decoder of expression.
    """

    shifts: np.ndarray
    signs: np.ndarray | None


def shifts_by_deletion(cells: "NetworkCells") -> np.ndarray:
    """The shifts of [`delete_regulators`]."""
    return delete_regulators(cells).shifts


def delete_regulators(cells: "NetworkCells") -> Deletions:
    """Delete each regulator in each cell that expresses it.

    Raises:
        ConfigurationError: there is no other pair, or no regulator can be deleted.
    """
    settings, genes = cells.settings, cells.genes
    names = [str(name) for name in genes.names[genes.regulators]]
    asked = PerturbSettings(
        genes=names,
        gene_effects=True,
        species=settings.species,
        batch_key=settings.batch_key,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    result = perturb_source(cells.source, PERTURB, cells.loaded, asked, cells.pieces_named("perturbation"))
    effects = result.uns["gene_effects"]
    row_of = {name: row for row, name in enumerate(names)}
    known = cells.tokens[genes.targets].tolist()
    column_of = {name: column for column, name in enumerate(cells.names_of(known))}
    chosen = effects[effects["gene"].isin(column_of) & (effects["n_cells"] >= FEWEST_CELLS)]
    if chosen.empty:
        raise ConfigurationError(
            f"No regulator and target are read together in {FEWEST_CELLS} cells: give more cells, or genes that more "
            "of them express (`genes`, `--genes`)."
        )
    places = chosen["perturbation"].map(row_of), chosen["gene"].map(column_of)
    shifts = np.full((len(names), len(known)), np.nan, np.float32)
    shifts[places] = 1 - chosen["similarity"]
    if "change" not in chosen:
        return Deletions(shifts, None)
    signs = np.zeros(shifts.shape, np.int8)
    told = chosen["change"].abs() > CLEAR * chosen["change_error"]
    signs[places] = -np.sign(chosen["change"]) * told
    return Deletions(shifts, signs)
