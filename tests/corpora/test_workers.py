"""Workers do not outlive a main process that is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from .conftest import make_cells

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

SCRIPT = """
import multiprocessing, signal, sys
from torch.utils.data import DataLoader
from sclm_hf import CellCorpus, CellProcessor

def counted(batch, epoch):
    import torch
    return {"cell_ids": torch.from_numpy(batch["cell_ids"]).repeat(200)}

if __name__ == "__main__":
    cells, processor, kind = sys.argv[1:]
    corpus = CellCorpus(cells, CellProcessor.from_pretrained(processor), window_size=2048)  # whose lengths and names fill a pipe
    if kind == "dataset":
        stream = iter(DataLoader(corpus.to_dataset(), batch_size=None, num_workers=2, collate_fn=lambda cell: [cell] * 999))
    else:
        stream = iter(corpus.loader(16, collator=counted if kind == "collator" else None, num_workers=2))
    next(stream)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    signal.pause()
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, processor):
    folder = tmp_path_factory.mktemp("many")
    make_cells(9000).write_h5ad(folder / "cells.h5ad")
    processor.save_pretrained(folder / "processor")
    (folder / "stream.py").write_text(SCRIPT)
    return folder


@pytest.mark.parametrize("kind", ["plain", "collator", "dataset"])
def test_workers_end_when_their_main_process_is_killed(inputs, kind):
    arguments = [inputs / "stream.py", inputs / "cells.h5ad", inputs / "processor", kind]
    main = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in main.stdout.readline().split()]
    main.send_signal(signal.SIGKILL)
    main.wait()
    deadline = time.monotonic() + 60
    while any(map(lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in workers if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(workers) == 2 and not left


def lives(pid: int) -> bool:
    """Whether there is a process that is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
