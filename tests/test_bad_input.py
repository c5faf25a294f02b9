"""Bad input is refused with an error that names the thing, before any work is lost."""

import errno
import json
import os
import pickle
import struct
import warnings

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse
import torch
from safetensors.torch import load_file, save_file

from sclm_hf import CellCorpus, ScGPTForSequenceClassification, annotate, embed
from sclm_hf.errors import SclmError
from sclm_hf.modeling.scgpt.convert_scgpt import convert_checkpoint
from sclm_hf.opening.loading import load_model
from sclm_hf.tasks.files.h5ad import read_h5ad, write_h5ad
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.finetune import finetune
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments

from .modeling.scgpt.golden_scgpt import GOLDEN
from .tasks.tiny import make_cells, make_model, make_processor, save_checkpoint


def cells_file(folder, change=None, name="cells.h5ad"):
    cells = make_cells()
    cells.obs["cell_type"] = ["B cell", "NK"] * 11 + ["NK"]
    changed = change(cells) if change else None
    cells = cells if changed is None else changed
    cells.write_h5ad(folder / name)
    return folder / name


def changed_counts(folder, change):
    def apply(cells):
        cells.X = cells.X.copy()
        change(cells.X.data)

    return cells_file(folder, apply)


def read_all(path, **settings):
    list(CellCorpus(path, make_processor(), **settings).batches(8))


def truncated_file(folder):
    path = cells_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    read_all(path)


def empty_file(folder):
    (folder / "cells.h5ad").touch()
    read_all(folder / "cells.h5ad")


def other_file(folder):
    (folder / "cells.h5ad").write_text("gene,cell\n")
    read_all(folder / "cells.h5ad")


def other_file_to_embed(folder):
    (folder / "cells.h5ad").write_text("gene,cell\n")
    read_h5ad(folder / "cells.h5ad")


def missing_file(folder):
    read_all(folder / "nowhere.h5ad")


def file_that_vanishes(folder):
    paths = [cells_file(folder, name=name) for name in ("one.h5ad", "two.h5ad")]
    corpus = CellCorpus(paths, make_processor(), window_size=8, group_size=8)
    batches = corpus.batches(8)
    next(batches)
    for path in paths:
        path.unlink()
    list(batches)
    list(corpus.batches(8, epoch=1))


def file_that_changes(folder):
    path = cells_file(folder)
    corpus = CellCorpus(path, make_processor(), window_size=8, group_size=8)
    batches = corpus.batches(8)
    next(batches)
    cells_file(folder, lambda cells: cells[:5].copy(), name="other.h5ad")
    os.replace(folder / "other.h5ad", path)
    list(batches)
    list(corpus.batches(8, epoch=1))


def nan_counts(folder):
    read_all(changed_counts(folder, lambda data: data.__setitem__(3, np.nan)))


def infinite_counts(folder):
    read_all(changed_counts(folder, lambda data: data.__setitem__(3, np.inf)))


def negative_counts(folder):
    read_all(changed_counts(folder, lambda data: data.__setitem__(3, -1)))


def fractional_counts(folder):
    read_all(changed_counts(folder, lambda data: data.__imul__(0.37)))


def negative_counts_to_embed(folder):
    cells = make_cells()
    cells.X.data[0] = -2
    embed(cells, make_model(), make_processor())


def indices_out_of_range(folder):
    path = cells_file(folder)
    with h5py.File(path, "r+") as file:
        file["X/indices"][3] = 4000
    read_all(path)


def no_cells(folder):
    read_all(cells_file(folder, lambda cells: cells[:0].copy()))


def no_cells_to_embed(folder):
    embed(make_cells()[:0].copy(), make_model(), make_processor())


def no_genes_in_common(folder):
    def rename(cells):
        cells.var_names = [f"OTHER{number}" for number in range(cells.n_vars)]

    read_all(cells_file(folder, rename))


def no_label_column(folder):
    read_all(cells_file(folder), label_column="celltype")


def labels_unseen_in_training(folder):
    read_all(cells_file(folder), label_column="cell_type", label_names=["B cell", "T cell"])


def vocabulary_that_does_not_fit(folder):
    model = make_model()
    model.resize_token_embeddings(50)
    embed(make_cells(), model, make_processor())


def checkpoint_without_a_tensor(folder):
    save_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("layers.1.linear1.bias")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    load_model(folder, "AutoModel")


def checkpoint_with_a_tensor_too_many(folder):
    source = release(folder)
    tensors = torch.load(source / "best_model.pt", weights_only=True)
    torch.save(tensors | {"surprise": torch.zeros(1)}, source / "best_model.pt")
    convert_checkpoint(source, folder / "out")


def checkpoint_with_a_wrong_shape(folder):
    save_checkpoint(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["layers.1.linear1.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    load_model(folder, "AutoModel")


def release(folder):
    source = folder / "release"
    source.mkdir()
    for name in ("best_model.pt", "args.json", "vocab.json"):
        (source / name).write_bytes((GOLDEN / "case_a" / name).read_bytes())
    return source


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def malicious_pickle(folder):
    source = release(folder)
    (source / "best_model.pt").write_bytes(pickle.dumps({"weight": Malicious()}, protocol=2))
    convert_checkpoint(source, folder / "out")


def malicious_torch_file(folder):
    source = release(folder)
    torch.save({"weight": Malicious()}, source / "best_model.pt")
    convert_checkpoint(source, folder / "out")


def malicious_weights_in_our_folder(folder):
    save_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Malicious()}, folder / "pytorch_model.bin")
    load_model(folder, "AutoModel")


def safetensors_with_a_lying_header(folder):
    save_checkpoint(folder)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + content[8:])
    load_model(folder, "AutoModel")


def config_with_wrong_types(folder):
    save_checkpoint(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    load_model(folder, "AutoModel")


def config_that_is_no_json(folder):
    save_checkpoint(folder)
    (folder / "config.json").write_text("{")
    load_model(folder, "AutoModel")


def path_trick_in_an_index(folder):
    save_checkpoint(folder / "model")
    tensors = load_file(folder / "model" / "model.safetensors")
    save_file(tensors, folder / "secret.safetensors", {"format": "pt"})
    (folder / "model" / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, "../secret.safetensors")}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    load_model(folder / "model", "AutoModel")


def a_model_without_head(folder):
    annotate(make_cells(), save_checkpoint(folder))


def one_label_only(folder):
    path = cells_file(folder, lambda cells: cells[cells.obs["cell_type"] == "NK"].copy())
    model = FinetuneArguments(save_checkpoint(folder / "model"), "cell_type")
    finetune(DataArguments(train_files=[str(path)]), model, TrainingConfig(output_dir=str(folder / "out")))


def unknown_training_setting(folder):
    TrainingConfig(output_dir=str(folder), learning_rate=-1.0)


CASES = {
    truncated_file: "cells.h5ad",
    empty_file: "cells.h5ad",
    other_file: "cells.h5ad",
    other_file_to_embed: "cells.h5ad",
    missing_file: "nowhere.h5ad",
    file_that_vanishes: r"one|two",
    file_that_changes: "chang",
    nan_counts: "finite|NaN",
    infinite_counts: "finite",
    negative_counts: "negative",
    fractional_counts: "fractional",
    negative_counts_to_embed: "negative",
    indices_out_of_range: "4,?000|range|column",
    no_cells: "cells",
    no_cells_to_embed: "no cells",
    no_genes_in_common: "OTHER",
    no_label_column: "celltype",
    labels_unseen_in_training: "NK",
    vocabulary_that_does_not_fit: "50 gene embeddings",
    checkpoint_without_a_tensor: "linear1.bias",
    checkpoint_with_a_tensor_too_many: "surprise",
    checkpoint_with_a_wrong_shape: "linear1.bias",
    malicious_pickle: "nothing of it was run",
    malicious_torch_file: "nothing of it was run",
    malicious_weights_in_our_folder: "safetensors",
    safetensors_with_a_lying_header: "header",
    config_with_wrong_types: "hidden_size",
    config_that_is_no_json: "config.json",
    path_trick_in_an_index: "without a folder",
    a_model_without_head: "classifier",
    one_label_only: "same label",
    unknown_training_setting: "learning_rate",
}


@pytest.mark.parametrize("attempt", CASES, ids=lambda attempt: attempt.__name__)
def test_bad_input_is_refused(attempt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(SclmError, match=CASES[attempt]):
            attempt(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_unsorted_and_doubled_entries_are_read_as_scipy_reads_them(tmp_path):
    cells = make_cells()
    model, processor = make_model(), make_processor()
    expected = embed(cells, model, processor).obsm["X_scgpt"]
    shuffled = cells.X.copy()
    for row in range(shuffled.shape[0]):
        part = slice(shuffled.indptr[row], shuffled.indptr[row + 1])
        shuffled.indices[part], shuffled.data[part] = shuffled.indices[part][::-1], shuffled.data[part][::-1]
    halves = scipy.sparse.csr_matrix(
        (np.repeat(shuffled.data / 2, 2), np.repeat(shuffled.indices, 2), shuffled.indptr * 2), shuffled.shape
    )
    for matrix in (shuffled, halves):
        matrix.has_sorted_indices = False
        other = anndata.AnnData(matrix, obs=cells.obs, var=cells.var)
        np.testing.assert_allclose(embed(other, model, processor).obsm["X_scgpt"], expected, atol=1e-5)


def test_duplicated_genes_are_added_up_and_duplicated_cells_kept():
    cells = make_cells()
    cells = anndata.concat([cells, cells])
    names = cells.var_names.tolist()
    names[5] = names[4]
    cells.var_names = names
    result = embed(cells, make_model(), make_processor())
    assert result.n_obs == cells.n_obs
    assert result.uns["sclm_hf"]["X_scgpt"]["coverage"]["n_duplicated"] == 0
    np.testing.assert_allclose(result.obsm["X_scgpt"][:23], result.obsm["X_scgpt"][23:], atol=1e-5)


def test_no_space_left_keeps_the_old_file(tmp_path, monkeypatch):
    path = cells_file(tmp_path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SclmError, match="No space left on device"):
        write_h5ad(make_cells(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_classifier_is_never_random(tmp_path):
    save_checkpoint(tmp_path)
    make_model(ScGPTForSequenceClassification).model.save_pretrained(tmp_path)
    with pytest.raises(SclmError, match="random"):
        load_model(tmp_path, "AutoModelForSequenceClassification")
