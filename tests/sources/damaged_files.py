"""One function a damage: each takes an open .h5ad file or AnnData zarr group of 60 cells and 40 genes and damages it.

What they write is what `h5py` and `zarr` let anybody write; only the shapes that are claimed, the links and the types
are unlike those of a sound file.
"""

import h5py
import numpy as np

N_CELLS, N_GENES = 60, 40


def replace(store, name, change):
    """Write an array anew; attributes stay."""
    values, attributes = store[name][:], dict(store[name].attrs)
    del store[name]
    put(store, name, change(values), attributes)


def put(store, name, values, attributes=()):
    """Write an array or group of arrays in the place of another one."""
    group, _, last = name.rpartition("/")
    group = store[group] if group else store
    if last in group:
        del group[last]
    values = np.asarray(values)
    if isinstance(store, h5py.Group):
        group.create_dataset(last, data=values if values.dtype.kind != "U" else values.astype(object))
    else:
        group.create_array(last, data=values)
    group[last].attrs.update(dict(attributes))


def claim(store, name, length, dtype="i4"):
    """An array that claims a length, of which nothing was ever written."""
    group, _, last = name.rpartition("/")
    attributes = dict(store[name].attrs)
    chunks = (min(length, 2**20),)
    del store[name]
    if isinstance(store, h5py.Group):
        store[group].create_dataset(last, (length,), dtype, chunks=chunks)
    else:
        store[group].create_array(last, shape=(length,), dtype=dtype, chunks=chunks)
    store[name].attrs.update(attributes)


# what does not fit together


def fewer_rows_than_names(store):
    put(store, "layers/counts", np.ones((N_CELLS - 10, N_GENES), np.float32))


def more_rows_than_names(store):
    put(store, "X", np.ones((N_CELLS + 10, N_GENES), np.float32))


def fewer_cell_names(store):
    replace(store, "obs/_index", lambda names: names[:-1])


def fewer_gene_names(store):
    replace(store, "var/_index", lambda names: names[:-1])


def wide_matrix(store):
    store["X"].attrs["shape"] = [N_CELLS, N_GENES + 1]


def short_indptr(store):
    replace(store, "X/indptr", lambda bounds: bounds[:-1])


def short_indices(store):
    replace(store, "X/indices", lambda indices: indices[:-3])


def short_data(store):
    replace(store, "X/data", lambda data: data[:-3])


def indptr_ends_early(store):
    replace(store, "X/indptr", lambda bounds: np.minimum(bounds, bounds[-1] - 2))


def indptr_falls(store):
    replace(store, "X/indptr", lambda bounds: np.concatenate([bounds[:5], bounds[5:6] + 10**6, bounds[6:]]))


def short_column(store):
    replace(store, "obs/cell_type/codes", lambda codes: codes[:-1])


def codes_beyond_categories(store):
    replace(store, "obs/cell_type/codes", lambda codes: codes + np.int8(5))


# what claims more than there is


def enormous_shape(store):
    store["X"].attrs["shape"] = [2**50, N_GENES]


def negative_shape(store):
    store["X"].attrs["shape"] = [-1, N_GENES]


def enormous_matrix(store):
    store["X"].attrs["shape"] = [2**40, N_GENES]
    claim(store, "X/indptr", 2**40 + 1)
    claim(store, "obs/_index", 2**40)


def enormous_data(store):
    claim(store, "X/data", 2**40)
    claim(store, "X/indices", 2**40)


def enormous_codes(store):
    claim(store, "obs/cell_type/codes", 2**40, "i1")


def enormous_categories(store):
    claim(store, "obs/cell_type/categories", 2**40, "S20" if isinstance(store, h5py.Group) else "i8")


def names_never_written(store):
    claim(store, "obs/_index", N_CELLS, "S20" if isinstance(store, h5py.Group) else "i8")


def indptr_never_written(store):
    claim(store, "X/indptr", N_CELLS + 1)


# what is of another kind


def fractional_indptr(store):
    replace(store, "X/indptr", lambda bounds: bounds + 0.5)


def fractional_indices(store):
    replace(store, "X/indices", lambda indices: indices + 0.5)


def fractional_codes(store):
    replace(store, "obs/cell_type/codes", lambda codes: codes + 0.5)


def fractional_shape(store):
    store["X"].attrs["shape"] = [N_CELLS + 0.5, N_GENES]


def complex_values(store):
    replace(store, "X/data", lambda data: data + 1j)


def text_as_shape(store):
    store["X"].attrs["shape"] = "60 x 40"


def two_dimensional_names(store):
    replace(store, "obs/_index", lambda names: names[:, None])


def array_as_obs(store):
    put(store, "obs", np.arange(N_CELLS))


def group_as_data(store):
    del store["X/data"]
    store["X"].create_group("data")


def no_obs(store):
    del store["obs"]


def no_index(store):
    del store["obs/_index"]


def no_indptr(store):
    del store["X/indptr"]


def no_matrix(store):
    del store["X"]


DAMAGES = [
    fewer_rows_than_names,
    more_rows_than_names,
    fewer_cell_names,
    fewer_gene_names,
    wide_matrix,
    short_indptr,
    short_indices,
    short_data,
    indptr_ends_early,
    indptr_falls,
    short_column,
    codes_beyond_categories,
    enormous_shape,
    negative_shape,
    enormous_matrix,
    enormous_data,
    enormous_codes,
    enormous_categories,
    names_never_written,
    indptr_never_written,
    fractional_indptr,
    fractional_indices,
    fractional_codes,
    fractional_shape,
    complex_values,
    text_as_shape,
    two_dimensional_names,
    array_as_obs,
    group_as_data,
    no_obs,
    no_index,
    no_indptr,
    no_matrix,
]
