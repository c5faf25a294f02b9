"""What the Auto classes make of a model of cells and text, whether this package is installed or not.

Run as `python auto_composites.py NAME OUTPUT.npz SAVED [SITE]`; what that means is said in `auto_outputs`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from auto_outputs import compare_saved, make_cells

PROMPTS = ["which type is <cell>", "is <cell> this <cell>"]
TEXTS = ["it makes antibodies", "it kills infected cells"]


def outputs(name: str, trust: bool) -> tuple[dict, list]:
    """Arrays by name, and the objects that made them."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForMultimodalLM, AutoProcessor

    config, processor = (one.from_pretrained(name, trust_remote_code=trust) for one in (AutoConfig, AutoProcessor))
    talks = config.model_type == "cell_text"
    cells = make_cells()
    given = (PROMPTS, cells[:3]) if talks else (cells, TEXTS)
    batch = processor(*given, return_tensors="pt")
    found = {f"batch.{key}": value.numpy() for key, value in batch.items()}
    kinds = {"model": AutoModel} | ({"talking": AutoModelForMultimodalLM} if talks else {})
    for kind, auto in kinds.items():
        model = auto.from_pretrained(name, trust_remote_code=trust).eval()
        assert model.config.cell_config.model_type == config.cell_config.model_type
        with torch.no_grad():
            results = model(**batch)
        found |= {f"{kind}.{key}": value.numpy() for key, value in results.items() if torch.is_tensor(value)}
    if talks:
        found["answer"] = model.generate(**batch, max_new_tokens=5, do_sample=False).numpy()
    return found, [processor, model]


if __name__ == "__main__":
    compare_saved(outputs, *sys.argv[1:])
