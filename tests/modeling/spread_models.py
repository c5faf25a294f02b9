"""Loads tiny models spread over two processes, and compares them with whole ones; launched by `test_plans.py`.

Prints, for each family, how many of the parameters are whole after a forward pass, and the largest difference.
"""

import json
import os
import sys
from pathlib import Path

import anndata
import numpy as np
import torch
import torch.distributed
from torch.distributed.tensor import DTensor
from transformers import AutoModel, AutoProcessor
from transformers.distributed import DistributedConfig

import sclm_hf
from sclm_hf.opening.tiny import make_tiny_checkpoint

GENES = [f"GENE{number}" for number in range(40)]


def main(folder: Path, families: list[str], kind: str) -> None:
    sclm_hf.register()
    rank = int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    random = np.random.default_rng(0)
    cells = anndata.AnnData(random.poisson(2.0, (6, len(GENES))).astype(np.float32) + 1)
    cells.obs_names, cells.var_names = [f"cell{number}" for number in range(6)], GENES
    cells.obs["batch"] = "one"
    found = {}
    for family in families:
        if rank == 0:
            make_tiny_checkpoint(family, folder / family, genes=GENES)
        torch.distributed.barrier()
        processor = AutoProcessor.from_pretrained(folder / family)
        batch = processor(cells, return_tensors="pt")
        settings = sclm_hf.FAMILIES[family].embed_overrides
        whole = AutoModel.from_pretrained(folder / family, **settings).eval()
        spread_over = DistributedConfig(**{kind: 2})
        spread = AutoModel.from_pretrained(folder / family, distributed_config=spread_over, **settings).eval()
        with torch.no_grad():
            one, two = whole(**batch).cell_embedding, spread(**batch).cell_embedding
        two = two.full_tensor() if isinstance(two, DTensor) else two
        parameters = list(spread.parameters())
        n_whole = sum(not isinstance(parameter, DTensor) for parameter in parameters)
        found[family] = [n_whole, len(parameters), float((one - two).abs().max())]
    if rank == 0:
        print(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3])
