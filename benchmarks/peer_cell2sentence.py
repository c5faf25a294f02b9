"""Sentences by `cell2sentence` from the registry, in a virtual environment of its own: for `cell_text_speed.py`.

For each line on its standard input it writes the sentences of all cells of a file once, and prints the CPU seconds.

    python benchmarks/peer_cell2sentence.py CELLS.h5ad
"""

import sys
import time

import anndata
import cell2sentence


def main() -> None:
    cells = anndata.read_h5ad(sys.argv[1])
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        table, _ = cell2sentence.CSData.adata_to_arrow(cells)
        print(time.process_time() - started, len(table), flush=True)


if __name__ == "__main__":
    main()
