"""Workers do not outlive a main process that is killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ..conftest import make_cells

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")

SCRIPT = """
import multiprocessing, signal, sys
from torch.utils.data import DataLoader
from sclm_hf import CellCorpus, CellProcessor

def many(cell):
    return [cell] * 999

if __name__ == "__main__":
    cells, processor = sys.argv[1:]
    # where the cells of a window lie does not fit into a pipe
    corpus = CellCorpus(cells, CellProcessor.from_pretrained(processor), window_size=2048)
    stream = iter(corpus.loader(16, num_workers=2))
    dataset = iter(DataLoader(corpus.to_dataset(), batch_size=None, num_workers=2, collate_fn=many))
    next(stream), next(dataset)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    signal.pause()
"""


@pytest.mark.slow
def test_workers_end_when_their_main_process_is_killed(tmp_path, processor):
    make_cells(9000).write_h5ad(tmp_path / "cells.h5ad")
    processor.save_pretrained(tmp_path / "processor")
    (tmp_path / "stream.py").write_text(SCRIPT)
    arguments = [tmp_path / "stream.py", tmp_path / "cells.h5ad", tmp_path / "processor"]
    main = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in main.stdout.readline().split()]
    main.kill()
    main.wait()
    deadline = time.monotonic() + 120
    while any(map(lives, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in workers if lives(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert len(workers) == 4 and not left


def lives(pid: int) -> bool:
    """Whether there is a process that is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
