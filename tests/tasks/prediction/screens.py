"""Small screens with known effects."""

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

GENES = [f"GENE{number}" for number in range(30)]
PERTURBED = GENES[:8]


def effects(seed: int = 0) -> pd.DataFrame:
    """(perturbed genes, genes) factors of expression, told by two features of the perturbed gene."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        np.exp(features().to_numpy() @ generator.normal(0, 0.8, (2, len(GENES)))), index=PERTURBED, columns=GENES
    )


def features() -> pd.DataFrame:
    """(perturbed genes, 2) what tells their effects."""
    angles = np.linspace(0, 2 * np.pi, len(PERTURBED), endpoint=False)
    return pd.DataFrame(np.stack([np.cos(angles), np.sin(angles)], axis=1), index=PERTURBED)


def make_screen(
    perturbations=(*PERTURBED, "GENE0+GENE1"), *, n_cells: int = 20, n_controls: int = 40, types=(None,), seed: int = 0
) -> anndata.AnnData:
    """Counts of controls and perturbed cells; the effects of combinations are products."""
    generator, factors = np.random.default_rng(seed), effects()
    base = generator.gamma(2, 3, len(GENES)) + 1
    counts, names, of_type = [], [], []
    for number, kind in enumerate(types):
        for name in ("control", *perturbations):
            size = n_controls if name == "control" else n_cells
            factor = np.prod([factors.loc[gene] for gene in name.split("+") if gene in factors.index], axis=0)
            counts.append(generator.poisson(base * (1 + number) * factor, (size, len(GENES))))
            names += [name] * size
            of_type += [kind or "one"] * size
    matrix = scipy.sparse.csr_matrix(np.concatenate(counts).astype("float32"))
    obs = pd.DataFrame({"perturbation": pd.Categorical(names), "cell_type": of_type})
    obs.index = [f"cell{number}" for number in range(len(obs))]
    return anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=GENES))
