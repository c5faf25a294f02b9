"""What the Auto classes make of a folder or repository and some cells, whether this package is installed or not.

Run as `python auto_outputs.py NAME OUTPUT.npz SAVED [SITE]`. With `SITE`, a folder of packages of others, code that
the folder brings is trusted; without, it is not. What was opened is then saved to `SAVED`, opened from there and
compared.
"""

import sys
from collections.abc import Callable

GENES = (
    "ACTB B2M CCL5 CD14 CD19 CD2 CD27 CD3D CD3E CD4 CD74 CD79A CD79B CD8A CD8B CST3 CTSS FCER1A FCGR3A FCN1 GNLY GZMB "
    "HLA-A HLA-B HLA-C IL7R JUN LTB LYZ MALAT1 NKG7 PF4 PPBP PRF1 S100A8 S100A9 SELL TYROBP VIM"
)
OTHER_NAMES = "CD20 ENSG00000110848 NOT_A_GENE"
"""An alias of MS4A1, the Ensembl id of CD69, and none: only the gene tables tell."""


def make_cells():
    import anndata
    import numpy as np
    import pandas as pd

    genes = [*GENES.split(), *OTHER_NAMES.split()]
    counts = np.random.default_rng(7).poisson(2.0, (5, len(genes))).astype(np.float32)
    names = [f"cell{number}" for number in range(len(counts))]
    return anndata.AnnData(counts, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes))


def outputs(name: str, trust: bool) -> tuple[dict, list]:
    """Arrays by name, and the objects that made them."""
    import torch
    from transformers import (
        AutoConfig,
        AutoFeatureExtractor,
        AutoModel,
        AutoModelForSequenceClassification,
        AutoProcessor,
        AutoTokenizer,
    )

    config, tokenizer, extractor, processor, model, classifier = [
        auto.from_pretrained(name, trust_remote_code=trust)
        for auto in (
            AutoConfig,
            AutoTokenizer,
            AutoFeatureExtractor,
            AutoProcessor,
            AutoModel,
            AutoModelForSequenceClassification,
        )
    ]
    found = {"tokens": tokenizer.convert_tokens_to_ids(GENES.split())}
    assert config.model_type == model.config.model_type and extractor.to_dict().keys() <= vars(extractor).keys() | {
        "feature_extractor_type",
        "auto_map",
    }
    batch = processor(make_cells(), return_tensors="pt")
    found |= {f"batch.{key}": value.numpy() for key, value in batch.items()}
    for kind, one in {"model": model, "classifier": classifier}.items():
        found[f"{kind}._can_set_attn_implementation"] = one._can_set_attn_implementation()
        with torch.no_grad():
            results = one.eval()(**batch)
        found |= {f"{kind}.{key}": value.numpy() for key, value in results.items() if torch.is_tensor(value)}
    return found, [processor, classifier]


def compare_saved(outputs: Callable, name: str, output: str, saved: str, site: str | None = None) -> None:
    """Write what `outputs(name, trust)` gives, and check that what was opened is the same when saved and opened again.

    Args:
        outputs: gives arrays by name, and the objects that made them.
        name: what is opened first.
        output: file to write.
        saved: folder to save to.
        site: folder of packages of others, without this one; None where this package is installed.
    """
    if site is not None:
        sys.path.append(site)
        try:
            import sclm_hf
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit(f"the package is there: {sclm_hf.__file__}")
    else:
        import sclm_hf
    import numpy as np
    import torch

    torch.set_num_threads(1)
    found, opened = outputs(name, trust=site is not None)
    for one in opened:
        one.save_pretrained(saved)
    again, _ = outputs(saved, trust=site is not None)
    for key, value in found.items():
        np.testing.assert_array_equal(again[key], value, key)
    assert ("sclm_hf" in sys.modules) == (site is None)
    np.savez(output, **found)


if __name__ == "__main__":
    compare_saved(outputs, *sys.argv[1:])
