from collections import Counter

import numpy as np
import pytest

from sclm_hf import embed
from sclm_hf.errors import ExpressionError
from sclm_hf.sources import survey
from sclm_hf.sources.anndata.h5ad import H5adSource
from sclm_hf.sources.in_memory import InMemorySource
from sclm_hf.sources.survey import refuse_alike, survey_cells
from sclm_hf.tasks.files.file_to_file import run_files

from ..tasks.tiny import make_cells, make_model, make_processor, save_checkpoint


@pytest.fixture
def rows_read(monkeypatch):
    """Every row that is read, of files and of AnnData, and the most of one call."""
    found, sizes = Counter(), []

    def counted(read):
        def counting(self, rows, scratch=None):
            found.update(np.asarray(rows).tolist())
            sizes.append(len(rows))
            return read(self, rows, scratch)

        return counting

    for source in (H5adSource, InMemorySource):
        monkeypatch.setattr(source, "read", counted(source.read))
    return found, sizes


def test_cells_are_read_once_to_be_checked_and_once_to_be_run(rows_read, tmp_path):
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    run_files("embed", tmp_path / "in.h5ad", tmp_path / "out.h5ad", save_checkpoint(tmp_path / "model"), batch_size=4)
    # the first row once more: that the file is still the same
    assert rows_read[0] == Counter(dict.fromkeys(range(23), 2)) + Counter([0])
    rows_read[0].clear()
    embed(make_cells(), make_model(), make_processor(), batch_size=4)
    assert set(rows_read[0].values()) == {2}


def test_no_more_than_a_block_is_read_at_once(rows_read, monkeypatch):
    monkeypatch.setattr(survey, "CELLS_AT_ONCE", 5)
    source, processor = InMemorySource(make_cells()), make_processor()
    whole = survey_cells(source, processor)
    assert rows_read[1] == [5, 5, 5, 5, 3]
    embed(make_cells(), make_model(), processor, batch_size=4)
    assert max(rows_read[1]) == 5
    monkeypatch.undo()
    expected = survey_cells(source, processor)
    np.testing.assert_array_equal(whole.lengths, expected.lengths)
    assert whole.coverage == expected.coverage


def test_rows_of_any_order_are_measured_and_encoded_alike():
    cells, processor = make_cells(), make_processor()
    expected = survey_cells(InMemorySource(cells), processor)
    cells.X.indices[: cells.X.indptr[1]] = cells.X.indices[: cells.X.indptr[1]][::-1].copy()
    cells.X.data[: cells.X.indptr[1]] = cells.X.data[: cells.X.indptr[1]][::-1].copy()
    found = survey_cells(InMemorySource(cells), processor)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    assert found.coverage == expected.coverage


def test_cells_that_are_all_alike_are_refused(monkeypatch):
    monkeypatch.setattr(survey, "CELLS_AT_ONCE", 4)
    cells = make_cells()[[5] * 10].copy()
    with pytest.raises(ExpressionError, match=r"`AnnData`: all 10 cells have the same values.*`--layer`"):
        refuse_alike(InMemorySource(cells))
    with pytest.raises(ExpressionError, match=r"holds one cell.*give more cells"):
        refuse_alike(InMemorySource(cells[:1].copy()))
    counts = cells.X.toarray()
    counts[9, 3] += 1
    cells.X = counts
    refuse_alike(InMemorySource(cells))
