"""Runs that are stopped where they would keep something, and files that are never read whole."""

import anndata

from sclm_hf.sources.anndata.h5ad import H5adSource
from sclm_hf.tasks.files import pieces


def stopping(monkeypatch, name):
    """Interrupt the run where it would keep the piece of this name."""
    save = pieces.Pieces.save

    def save_or_stop(self, number, piece, **arrays):
        if self._path(number).name == name:
            raise KeyboardInterrupt
        save(self, number, piece, **arrays)

    monkeypatch.setattr(pieces.Pieces, "save", save_or_stop)


def stopping_at(monkeypatch, number):
    """Interrupt the run where it would keep something for the time `number`, counted from 0."""
    save, calls = pieces.Pieces.save, []

    def save_or_stop(self, *args, **arrays):
        calls.append(args)
        if len(calls) > number:
            raise KeyboardInterrupt
        save(self, *args, **arrays)

    monkeypatch.setattr(pieces.Pieces, "save", save_or_stop)


def reading_in_blocks(monkeypatch):
    """Refuse that anndata reads a file; the numbers of cells that are read at once, six at most."""
    read, numbers = H5adSource.read, []

    def read_some(self, rows, scratch=None):
        numbers.append(len(rows))
        return read(self, rows, scratch)

    def refuse(*args, **kwargs):
        raise AssertionError("the whole file was read")

    monkeypatch.setattr(H5adSource, "read", read_some)
    monkeypatch.setattr(anndata, "read_h5ad", refuse)
    monkeypatch.setattr("sclm_hf.sources.survey.CELLS_AT_ONCE", 6)
    return numbers
