"""What the Auto classes make of the folder of a task-specific model, whether this package is installed or not.

Run as `python bare_outputs.py INPUT.pickle FOLDER OUTPUT.npz SAVED [SITE]`; see `tests/hub/auto_outputs.py`. The
pickle holds the arguments of the processor.
"""

import functools
import pickle
import sys
from pathlib import Path


def outputs(given: str, folder: str, trust: bool) -> tuple[dict, list]:
    """Arrays by name, and the objects that made them."""
    import torch
    from transformers import AutoModel, AutoProcessor

    processor, model = (one.from_pretrained(folder, trust_remote_code=trust) for one in (AutoProcessor, AutoModel))
    # the test has just written it
    cells, settings = pickle.loads(Path(given).read_bytes())
    batch = processor(cells, **settings, return_tensors="pt")
    with torch.no_grad():
        results = model.eval()(**batch)
    found = {f"batch.{key}": value for key, value in batch.items()} | dict(results.items())
    return {key: value.numpy() for key, value in found.items() if torch.is_tensor(value)}, [processor, model]


if __name__ == "__main__":
    # this package, and so `tests`, may not be importable
    sys.path.append(str(Path(__file__).parents[1] / "hub"))
    from auto_outputs import compare_saved

    compare_saved(functools.partial(outputs, sys.argv[1]), *sys.argv[2:])
