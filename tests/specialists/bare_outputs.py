"""What the Auto classes make of the folder of a task-specific model, whether this package is installed or not.

Run as `python bare_outputs.py FOLDER INPUT.pickle OUTPUT.npz SAVED [SITE]`; see `tests/hub/auto_outputs.py`. The
pickle holds the arguments of the processor.
"""

import pickle
import sys


def outputs(folder: str, arguments: tuple, trust: bool) -> tuple[dict, list]:
    """Arrays by name, and the objects that made them."""
    import torch
    from transformers import AutoModel, AutoProcessor

    processor, model = (one.from_pretrained(folder, trust_remote_code=trust) for one in (AutoProcessor, AutoModel))
    cells, settings = arguments
    batch = processor(cells, **settings, return_tensors="pt")
    with torch.no_grad():
        results = model.eval()(**batch)
    found = {f"batch.{key}": value for key, value in batch.items()} | dict(results.items())
    return {key: value.numpy() for key, value in found.items() if torch.is_tensor(value)}, [processor, model]


def main(folder: str, given: str, output: str, saved: str, site: str | None = None) -> None:
    if site is not None:
        sys.path.append(site)
    else:
        import sclm_hf  # noqa: F401
    import numpy as np
    import torch

    torch.set_num_threads(1)
    with open(given, "rb") as file:
        arguments = pickle.load(file)
    found, opened = outputs(folder, arguments, trust=site is not None)
    for one in opened:
        one.save_pretrained(saved)
    again, _ = outputs(saved, arguments, trust=site is not None)
    for key, value in found.items():
        np.testing.assert_array_equal(again[key], value, key)
    assert ("sclm_hf" in sys.modules) == (site is None)
    np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
