"""`embed`: one vector a cell."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..evaluation.collapse import Collapse, CollapseMeter
from ..logging import warn
from ..opening.loading import load_model
from .inference import check_run, prepare_cells, run_cells
from .running.provenance import check_adata, check_target, record, take_target

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from transformers.utils import ModelOutput

    from ..tokenization.processing_cell import CellProcessor


def embed(
    adata: "AnnData",
    model: Any,
    processor: "CellProcessor | None" = None,
    *,
    key_added: str | None = None,
    layer: str | None = None,
    species: str = "human",
    batch_key: str | None = None,
    batch_size: int = 64,
    device: "str | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    seed: int = 0,
    revision: str | None = None,
    copy: bool = True,
) -> "AnnData":
    """Add the embeddings that `model` gives to the cells of `adata`.

    A cell's vector does not depend on the batch size, on the order of the cells or on which others are there: to 1e-5
    in float32. What is random about a cell (which genes are kept of a cell that is too long, ties between bins) is
    drawn from its name in `obs_names` and `seed`. Not so with CellPLM, whose tokens are cells: there a vector depends
    on the other cells of the sample, which the model sees together, and on nothing beyond.

    Args:
        adata: cells; the data are looked for in `layer`, else `layers["counts"]`, `raw`, `X`. A backed AnnData
            (`anndata.read_h5ad(path, backed="r")`) is read in pieces with `copy=False`, as far as its matrix lies on
            disk by rows; with `copy=True` it is brought into memory first.
        model: folder or repository id of a checkpoint or an adapter; or a loaded model.
        processor: the processor; by default the one saved with the model.
        key_added: name of the embedding in `obsm`; by default `X_<family>`, for example `"X_scgpt"`.
        layer: the layer that holds the data; also `"X"` or `"raw"`.
        species: `"human"`, or `"mouse"` to go through orthologs.
        batch_key: column of `obs` with the batches, for models trained with batch labels: their names where
            `config.batch_names` holds these, else their numbers. For CellPLM, the column that tells samples apart: by
            default `obs["batch"]`, without which all cells are one sample.
        batch_size: cells a batch; fewer of very long cells, and halved, with a warning, when memory runs out. Of
            no effect on CellPLM, which takes whole samples, in pieces when memory runs out.
        device: where to run; by default CUDA, else MPS, else CPU.
        dtype: `"float32"` (default), `"bfloat16"` or `"float16"`.
        seed: seed of what is random about a cell.
        revision: branch, tag or commit on the Hub.
        copy: add to a copy in memory; False adds to `adata` itself (of a backed one, not to its file).

    Returns:
        The AnnData with `obsm[key_added]` (n_cells, cell_embedding_size) float32, divided by its L2 norm where
        `config.normalize_cell_embedding` says so, as scGPT's published procedure does (Cui et al., Nature Methods
        2024), and with `uns["sclm_hf"][key_added]`: model, revision, versions, settings, coverage of the genes, and
        under `"collapse"` how alike the embeddings are (see `sclm_hf.evaluation.collapse.Collapse`).

    Warns:
        SclmWarning: the embeddings of 50 cells or more are as alike as those of a collapsed model: mean cosine above
            0.99, or more than 70 % of the variance along one direction.

    Raises:
        CheckpointError: the model cannot be read or is incomplete.
        ConfigurationError: settings do not fit the model or the machine, or nothing can be added to `adata`, or it is
            no AnnData.
        GeneCoverageError: the model knows too few of the genes.
        ExpressionError: the data are not what the model's encoding expects.
    """
    check_adata(adata)
    check_target(adata, copy=copy)
    check_key(key_added)
    check_run(batch_size, seed)
    loaded = load_model(model, "embed", processor=processor, device=device, dtype=dtype, revision=revision)
    result = take_target(adata, copy=copy)
    config = loaded.model.config
    key_added = key_added or f"X_{config.model_type}"
    cells = prepare_cells(result, loaded, layer=layer, species=species, batch_key=batch_key)
    how = {"batch_size": batch_size, "seed": seed, "description": "embed"}
    result.obsm[key_added] = embeddings = run_cells(loaded, cells, embedding_reader(config), **how)
    meter = CollapseMeter(cells.cell_ids)
    meter.add(slice(None), embeddings)
    settings = {
        "layer": layer,
        "species": species,
        "batch_key": batch_key,
        "batch_size": batch_size,
        "seed": seed,
        "normalized": config.normalize_cell_embedding,
    }
    record(result, key_added, loaded, cells, settings)
    result.uns["sclm_hf"][key_added]["collapse"] = report_collapse(meter.measure(), f'`obsm["{key_added}"]`')
    return result


def report_collapse(collapse: Collapse, where: str) -> dict[str, Any]:
    """What a record says of the embeddings that stand `where`; warns of such as collapsed models give."""
    if collapse.is_likely:
        warn(
            f"The embeddings in {where} hardly tell cells apart ({collapse}): so do those of a model that collapsed "
            "or was never trained. Compare them with a baseline, such as principal components of log-normalised "
            "counts, before you rely on them."
        )
    return collapse.to_dict()


def check_key(key_added: str | None) -> None:
    """Refuse a name of embeddings that no `.h5ad` file can hold: HDF5 takes `/` and `.` for paths."""
    if key_added is None or (isinstance(key_added, str) and key_added not in ("", ".") and "/" not in key_added):
        return
    raise ConfigurationError(
        f"`key_added` (`--key`) must be a name without `/`, for example 'X_scgpt', got {key_added!r}."
    )


def embedding_reader(config: Any) -> "Callable[[ModelOutput], torch.Tensor]":
    """What takes the embeddings, (batch, cell_embedding_size), from the output of a model with this `config`."""
    from torch.nn import functional as F

    def read(output: "ModelOutput") -> "torch.Tensor":
        cell_embedding = output.cell_embedding.float()
        return F.normalize(cell_embedding, dim=-1) if config.normalize_cell_embedding else cell_embedding

    return read
