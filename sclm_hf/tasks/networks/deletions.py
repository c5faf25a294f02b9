"""How far the deletion of a regulator moves what a model says of its targets."""

from typing import TYPE_CHECKING

import numpy as np

from ...errors import ConfigurationError
from ..perturb import PERTURB, PerturbSettings
from ..perturbation.perturbing import perturb_cells
from .genes import FEWEST_CELLS

if TYPE_CHECKING:
    from .evidence import NetworkCells


def shifts_by_deletion(cells: "NetworkCells") -> np.ndarray:
    """Delete each regulator in each cell that expresses it.

    Returns:
        (regulators, targets) float32, 1 minus the mean cosine of the target to itself before; NaN for pairs that fewer
        than 10 cells hold.

    Raises:
        ConfigurationError: there is no other pair, or no regulator can be deleted.
    """
    settings, genes = cells.settings, cells.genes
    names = [str(name) for name in genes.names[genes.regulators]]
    result = perturb_cells(
        cells.adata,
        PERTURB,
        cells.loaded.model,
        cells.loaded.processor,
        PerturbSettings(
            genes=names,
            gene_effects=True,
            layer=settings.layer,
            species=settings.species,
            batch_key=settings.batch_key,
            batch_size=settings.batch_size,
            seed=settings.seed,
        ),
    )
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
    scores = np.full((len(names), len(known)), np.nan, np.float32)
    scores[chosen["perturbation"].map(row_of), chosen["gene"].map(column_of)] = 1 - chosen["similarity"]
    return scores
