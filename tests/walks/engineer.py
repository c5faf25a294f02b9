"""An engineer with more cells than memory: an estimate, two shards, a merge, a run that is killed; a corpus.

`python tests/walks/engineer.py CELLS.h5ad EMPTY_FOLDER`, from the folder of the repository.
"""

import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen

import anndata
from agent import MODEL, run


def main(file: str, output: str) -> None:
    """The walk."""
    folder, cells, model = Path(output), str(Path(output) / "atlas.h5ad"), str(MODEL)
    # a shard is made of whole blocks of 4,096 cells
    anndata.concat([anndata.read_h5ad(file)] * 4, index_unique="-").write_h5ad(cells)
    run(["estimate", cells, "--model", model], folder)
    run(["embed", cells, "whole.h5ad", "--model", model], folder)
    for shard in ("1/2", "2/2"):
        run(["embed", cells, "parts.h5ad", "--model", model, "--shard", shard], folder)
    run(["merge", "parts.h5ad", "parts.1-of-2.h5ad", "parts.2-of-2.h5ad", "--input", cells], folder)
    assert_alike(folder / "parts.h5ad", folder / "whole.h5ad")
    lost = run(["merge", "lost.h5ad", "parts.1-of-2.h5ad", "--input", cells], folder, code=1)
    print(lost)
    kill_and_repeat(folder, cells, model)
    assert_alike(folder / "killed.h5ad", folder / "whole.h5ad")
    run(["corpus", "build", cells, "shards", "--obs-column", "cell_type", "--license", "cc-by-4.0"], folder)
    run(["corpus", "check", "shards"], folder)
    run(["corpus", "info", "shards"], folder)
    run(["embed", "shards", "from_shards.h5ad", "--model", model], folder)


def assert_alike(one: Path, other: Path) -> None:
    """The same cells, the same numbers to the last bit."""
    one, other = anndata.read_h5ad(one), anndata.read_h5ad(other)
    assert one.obs_names.equals(other.obs_names) and one.obs.equals(other.obs)
    assert one.obsm["X_scgpt"].tobytes() == other.obsm["X_scgpt"].tobytes()


def kill_and_repeat(folder: Path, cells: str, model: str) -> None:
    """A run that is killed while it works, and is then repeated."""
    command = [sys.executable, "-m", "sclm_hf.cli.main", "embed", cells, str(folder / "killed.h5ad"), "--model", model]
    process = Popen(command, stdout=PIPE, stderr=PIPE)
    pieces = folder / "killed.h5ad.partial"
    while process.poll() is None and not (pieces.exists() and any(pieces.iterdir())):
        time.sleep(0.05)
    process.kill()
    process.wait()
    run(command[3:], folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
