import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from sclm_hf import CellCorpus, CellProcessor, ExpressionFeatureExtractor, GeneTokenizer
from sclm_hf.corpora.pipeline.loader import _end_workers
from sclm_hf.corpora.pipeline.window_reader import WindowReader
from sclm_hf.errors import ExpressionError
from sclm_hf.objectives.generative_expression import GenerativeExpressionCollator
from sclm_hf.objectives.masked_expression import MaskedExpressionCollator
from sclm_hf.objectives.masked_genes import MaskedGenesCollator
from sclm_hf.objectives.next_gene import NextGeneCollator
from sclm_hf.tokenization.genes.gene_vocabulary import SPECIAL_TOKENS

from ..conftest import GENES, make_cells

SMALL = {"block_size": 8, "window_size": 48, "group_size": 12}


@pytest.fixture
def corpus(folder, processor):
    return CellCorpus(folder, processor, label_column="cell_type", **SMALL)


def add_epoch(batch, epoch):
    return {"cell_ids": torch.from_numpy(batch["cell_ids"]), "epoch": torch.tensor(epoch)}


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_workers_do_not_change_the_batches(corpus, num_workers):
    for options in ({}, {"start": 60, "rank": 1, "world_size": 2, "epoch": 2}):
        loader = corpus.loader(12, num_workers=num_workers, **options)
        expected, found = list(corpus.batches(12, **options)), list(loader)
        assert len(loader) == len(found) == len(expected)
        for want, have in zip(expected, found, strict=True):
            assert list(want) == list(have)
            for name, values in want.items():
                assert have[name].is_contiguous()
                np.testing.assert_array_equal(have[name].numpy(), values)


def doubled(batch, epoch):
    return {name: 2 * torch.from_numpy(values) for name, values in batch.items()}


def ranked():
    extractor = ExpressionFeatureExtractor(encoding="rank", truncation="head", max_length=25)
    return CellProcessor(extractor, GeneTokenizer.from_genes(GENES, special_tokens=(*SPECIAL_TOKENS, "<mask>")))


@pytest.mark.parametrize("rest", [{}, {"start": 60, "rank": 1, "world_size": 2}])
def test_workers_do_not_change_what_a_collator_makes(folder, processor, rest):
    for kind in (GenerativeExpressionCollator, MaskedExpressionCollator, MaskedGenesCollator, NextGeneCollator, None):
        its_processor = ranked() if kind in (MaskedGenesCollator, NextGeneCollator) else processor
        corpus = CellCorpus(folder, its_processor, **SMALL)
        collator = kind.from_processor(its_processor) if kind else doubled
        alone, *others = (
            list(corpus.loader(12, collator=collator, epoch=2, num_workers=workers, **rest)) for workers in (0, 1, 2)
        )
        for found in others:
            for want, have in zip(alone, found, strict=True):
                assert list(want) == list(have) and all(torch.equal(want[name], have[name]) for name in want)


def refuse(batch, epoch):
    raise ValueError("no such batch")


def test_workers_end_when_a_collator_fails(corpus):
    with pytest.raises(ValueError, match="no such batch") as caught:
        list(corpus.loader(12, collator=refuse, num_workers=1))
    assert caught.tb and not multiprocessing.active_children(), "Python would wait for them at exit"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_collator_gets_arrays_and_the_epoch(corpus, num_workers):
    found = list(corpus.loader(12, collator=add_epoch, num_workers=num_workers, epoch=5))
    assert {int(batch["epoch"]) for batch in found} == {5}
    assert sum(len(batch["cell_ids"]) for batch in found) == 154


@pytest.mark.parametrize("num_workers", [0, 1])
def test_narrow_batches_widen_to_the_usual_ones(corpus, num_workers):
    loader = corpus.loader(12, num_workers=num_workers)
    kinds = {
        "input_ids": torch.uint16,
        "expression_values": torch.int16,
        "attention_mask": torch.uint8,
        "cell_ids": torch.int64,
        "labels": torch.int64,
    }
    for narrow, wide in zip(loader.narrow(), loader, strict=True):
        assert {name: tensor.dtype for name, tensor in narrow.items()} == kinds
        widened = narrow.widened()
        for name, tensor in wide.items():
            assert torch.equal(widened[name], tensor) and widened[name].dtype == tensor.dtype


def narrow_int16(batch, epoch):
    assert batch["input_ids"].dtype == np.int64 and batch["expression_values"].dtype == np.float32
    return {"labels": torch.ones(3, dtype=torch.int16)}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_collator_of_somebody_else_gets_wide_types_and_what_it_gives_is_left_alone(corpus, num_workers):
    loader = corpus.loader(12, collator=narrow_int16, num_workers=num_workers)
    for batch in (next(iter(loader)), next(loader.narrow())):
        assert batch["labels"].dtype == torch.int16 and type(batch) is dict


def test_batches_of_a_worker_may_be_kept(corpus):
    for stream in (corpus.loader(12, num_workers=1), corpus.loader(12, num_workers=1).narrow()):
        kept = list(stream)
        for have, want in zip(kept, corpus.batches(12), strict=True):
            np.testing.assert_array_equal(have["input_ids"], want["input_ids"])


def test_nothing_is_left_at_the_end(corpus):
    loader = corpus.loader(12, start=154, num_workers=1)
    assert (len(loader), list(loader)) == (0, [])


def test_errors_of_a_worker_keep_their_kind_and_name_the_file(tmp_path, processor):
    cells = make_cells(30)
    cells.X.data[cells.X.indptr[4]] = -1
    cells.write_h5ad(tmp_path / "bad.h5ad")
    with pytest.raises(ExpressionError, match=r"bad\.h5ad`.*rows 4\)") as caught:
        list(CellCorpus(tmp_path, processor, **SMALL).loader(12, num_workers=1))
    assert caught.tb and not multiprocessing.active_children(), "Python would wait for them at exit"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_be_started_in_other_ways(corpus, monkeypatch, method):
    monkeypatch.setattr(
        multiprocessing.context._default_context, "_actual_context", multiprocessing.get_context(method)
    )
    expected, found = list(corpus.batches(12)), list(corpus.loader(12, num_workers=1))
    assert len(expected) == len(found)
    for want, have in zip(expected, found, strict=True):
        np.testing.assert_array_equal(have["input_ids"].numpy(), want["input_ids"])


def test_after_an_error_no_thread_goes_on(tmp_path, processor, monkeypatch):
    cells, running, encode = make_cells(600), [], WindowReader._encode
    cells.X.data[0] = -1
    cells.write_h5ad(tmp_path / "bad.h5ad")

    def slowly(self, part, buffer):
        running.append(part.places.start)
        time.sleep(0.3 if part.places.start else 0.1)
        try:
            encode(self, part, buffer)
        finally:
            running.remove(part.places.start)

    monkeypatch.setattr(WindowReader, "_encode", slowly)
    with pytest.raises(ExpressionError, match="rows 0"):
        next(CellCorpus(tmp_path, processor).batches(12))
    assert not running


def deaf(ready):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.set()
    threading.Event().wait()


def test_at_exit_no_worker_is_waited_for_that_waits_for_the_main_process():
    ready = multiprocessing.Event()
    worker = multiprocessing.Process(target=deaf, args=(ready,), daemon=True)
    worker.start()
    assert ready.wait(60)
    _end_workers()
    assert not worker.is_alive()


def stuck_in_the_second_window(reader, numbers):
    yield reader.window(numbers[0])
    threading.Event().wait()


def test_a_busy_worker_ends_with_its_stream(corpus, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(WindowReader, "windows", stuck_in_the_second_window)
    stream = iter(corpus.loader(12, num_workers=1))
    next(stream)
    stream.close()
    for worker in multiprocessing.active_children():
        worker.join(60)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_stream_left_in_the_middle_does_not_keep_the_program_from_ending(folder, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    script = (
        "from sclm_hf import CellCorpus, CellProcessor\n"
        "if __name__ == '__main__':\n"
        f"    corpus = CellCorpus({str(folder)!r}, CellProcessor.from_pretrained({str(tmp_path)!r}), window_size=4)\n"
        "    stream = iter(corpus.loader(4, num_workers=1))\n"
        "    next(stream)\n"
    )
    file = tmp_path / "script.py"
    file.write_text(script)
    assert subprocess.run([sys.executable, file], timeout=120).returncode == 0
