"""Which cells a model was trained on."""

import numpy as np
import pyarrow
import pytest
import scipy.sparse as sp
from pyarrow import parquet

from sclm_hf import CellCorpus
from sclm_hf.corpora.training_manifest import (
    CHOSEN,
    MANIFEST,
    TRAINED,
    TrainingManifest,
    hash_counts,
    read_manifest,
)
from sclm_hf.errors import CheckpointError
from sclm_hf.tokenization.encodings.keys import hash_names

from .conftest import GENES, make_cells


@pytest.fixture
def manifest(folder, processor):
    return TrainingManifest.of(CellCorpus(folder, processor, where={"donor": "d1"}))


def test_hashes_of_counts_heed_neither_the_order_of_genes_nor_absent_counts():
    counts, order = sp.csr_matrix(make_cells(9).X), np.random.default_rng(0).permutation(len(GENES))
    genes = hash_names(GENES)
    expected = hash_counts(counts, genes)
    zeros = counts[:, order].copy()
    zeros.data[0] = 0
    assert len(set(expected)) == 9
    assert np.array_equal(hash_counts(counts[:, order], genes[order]), expected)
    assert hash_counts(zeros, genes[order])[0] != expected[0]


def test_the_cells_of_a_corpus_stand_in_its_manifest_and_others_do_not(manifest, folder, processor):
    everything = TrainingManifest.of(CellCorpus(folder, processor))
    held = manifest.holds(everything.datasets, everything.cells, everything.counts)
    assert len(everything) == 154 and 0 < held.sum() == len(manifest) < 154


def test_a_cell_is_recognised_by_its_counts_or_by_its_name_in_the_same_data_set(manifest):
    cell, counts, nothing = manifest.cells[:1], manifest.counts[:1], np.zeros(1, np.uint64)
    assert manifest.holds("renamed", nothing, counts)
    assert manifest.holds(manifest.datasets[0], cell, nothing)
    assert not manifest.holds("renamed", cell, nothing)


def test_a_manifest_is_read_as_it_was_written(manifest, tmp_path):
    manifest.save(tmp_path)
    again = read_manifest(str(tmp_path))
    assert all(np.array_equal(*columns) for columns in zip(again, manifest, strict=True))
    assert read_manifest(str(tmp_path.parent)) is None


def test_cells_of_two_runs_stand_once(manifest, folder, processor):
    joined = TrainingManifest.of(CellCorpus(folder, processor)).with_cells_of(manifest)
    assert len(joined) == 154
    assert np.array_equal(joined.cells[: len(manifest)], manifest.cells)


def test_a_cell_that_chose_one_model_and_was_trained_on_by_another_was_trained_on(manifest, folder, processor):
    everything = TrainingManifest.of(CellCorpus(folder, processor), CHOSEN)
    for joined in (everything.with_cells_of(manifest), manifest.with_cells_of(everything)):
        assert len(joined) == 154 and len(joined.part(CHOSEN)) == 154 - len(manifest)
        assert joined.part(TRAINED).holds(manifest.datasets, manifest.cells, manifest.counts).all()


def test_a_manifest_without_roles_is_of_cells_to_train_on(manifest, tmp_path):
    manifest.save(tmp_path)
    table = parquet.read_table(tmp_path / MANIFEST)
    parquet.write_table(table.drop_columns("role"), tmp_path / MANIFEST)
    assert set(read_manifest(str(tmp_path)).roles) == {TRAINED}
    roles = pyarrow.array(["guessed"] * len(table))
    parquet.write_table(table.set_column(3, "role", roles), tmp_path / MANIFEST)
    with pytest.raises(CheckpointError, match="must be 'train' or 'chosen'"):
        read_manifest(str(tmp_path))


def test_a_damaged_manifest_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_bytes(b"PAR1 and nothing else")
    with pytest.raises(CheckpointError, match="cannot be read as a training manifest"):
        read_manifest(str(tmp_path))


def test_the_manifest_of_an_adapter_is_that_of_its_base_and_not_of_another_adapter(manifest, tmp_path):
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    adapter.mkdir()
    manifest.save(base)
    settings = adapter / "adapter_config.json"
    settings.write_text('{"peft_type": "LORA", "base_model_name_or_path": "../base"}')
    assert np.array_equal(read_manifest(str(adapter)).cells, manifest.cells)
    settings.write_text('{"peft_type": "LORA", "base_model_name_or_path": "./."}')
    with pytest.raises(CheckpointError, match=r"names the base `.*adapter`, which is an adapter too"):
        read_manifest(str(adapter))
