"""Files as old versions of anndata wrote them, by h5py."""

import h5py
import numpy as np


def write_compound(path, cells, *, raw=False) -> None:
    """anndata before 0.7: `obs` and `var` are compound arrays, categories stand in `uns`, `X` is an h5sparse group."""
    types = cells.obs["cell_type"].cat
    with h5py.File(path, "w") as file:
        _write_sparse(file, "raw.X" if raw else "X", cells.X)
        if raw:
            file["X"] = np.log1p(cells.X.toarray())
            file["raw.var"] = _frame(cells.var_names)
        file["var"] = _frame(cells.var_names)
        columns = {
            "cell_type": types.codes.to_numpy(),
            "donor": cells.obs["donor"].to_numpy().astype("S"),
            "score": np.linspace(0, 1, cells.n_obs),
        }
        file["obs"] = _frame(cells.obs_names, **columns)
        file["uns/cell_type_categories"] = np.array(types.categories, dtype=h5py.string_dtype())


def _frame(names, **columns) -> np.ndarray:
    arrays = {"index": np.array(names, dtype="S"), **columns}
    frame = np.empty(len(names), [(name, values.dtype) for name, values in arrays.items()])
    for name, values in arrays.items():
        frame[name] = values
    return frame


def _write_sparse(file, name, matrix) -> None:
    group = file.create_group(name)
    group.attrs["h5sparse_format"] = "csr"
    group.attrs["h5sparse_shape"] = np.array(matrix.shape)
    for part in ("data", "indices", "indptr"):
        group[part] = getattr(matrix, part)
