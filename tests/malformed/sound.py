"""Sound inputs of every kind, and the journeys that read them."""

import contextlib
import gzip
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse
import torch

from sclm_hf import CellCorpus
from sclm_hf.corpora.building.build import build_corpus
from sclm_hf.corpora.building.check import check_corpus
from sclm_hf.errors import CorpusError
from sclm_hf.opening.tiny import LABELS, make_processor, make_tiny_checkpoint
from sclm_hf.registry import FAMILIES, get_family
from sclm_hf.specialists.protrait.processing_protrait import PROTRAITProcessor
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.training.specialists import fit

from ..modeling.cellplm import golden_cellplm
from ..modeling.geneformer import golden_geneformer
from ..modeling.iseeek import golden_iseeek
from ..modeling.scbert import golden_scbert
from ..modeling.scfoundation import golden_scfoundation
from ..modeling.scgpt import golden_scgpt
from ..modeling.tgpt import golden_tgpt
from ..modeling.uce import golden_uce

GENES = ["B2M", "CD14", "CD19", "CD3D", "CD3E", "CD4", "CD74", "CST3", "FCN1", "FTH1", "FTL", "GNLY", "HLA-A", "HLA-B"]
GENES += ["LYZ", "MALAT1", "MS4A1", "NKG7", "S100A8", "S100A9"]
N_CELLS = 24
SPECIALISTS = ("ciform", "deepmaps")
"""The task-specific models whose folders are damaged: one that labels cells, and one that knows cells by name."""


@dataclass(frozen=True)
class Target:
    """Something to damage, and what is done with it.

    Attributes:
        name: its name in the table.
        kind: what it is: `h5ad`, `zarr`, `shards`, `checkpoint`, `adapter`, `release` or `genome`.
        content: the file or folder below the folder of sound inputs that is copied and damaged.
        run: (copy, folder for what is written) -> the result as an array, the same for the same input.
    """

    name: str
    kind: str
    content: str
    run: Callable[[Path, Path], np.ndarray]


def make_cells(seed: int = 0) -> anndata.AnnData:
    generator = np.random.default_rng(seed)
    counts = generator.poisson(2.0, (N_CELLS, len(GENES))) * (generator.random((N_CELLS, len(GENES))) < 0.7)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(generator.choice(LABELS, N_CELLS)),
            "batch": pd.Categorical((np.arange(N_CELLS) % 2).astype(str)),
            "score": generator.random(N_CELLS),
            "note": [f"note {number % 3}" for number in range(N_CELLS)],
        },
        index=[f"cell{number}" for number in range(N_CELLS)],
    )
    return anndata.AnnData(scipy.sparse.csr_matrix(counts.astype("float32")), obs=obs, var=pd.DataFrame(index=GENES))


def make_sound_inputs(folder: Path) -> None:
    """Write all inputs, and `victim`, which nothing may read or change."""
    cells = make_cells()
    cells.obsm["X_pca"] = np.ones((N_CELLS, 2), np.float32)
    cells.uns["method"] = {"name": "none", "parameters": [1, 2]}
    cells.write_h5ad(folder / "csr.h5ad")
    for name, matrix in (("dense", cells.X.toarray()), ("csc", cells.X.tocsc())):
        other = cells.copy()
        other.X = matrix
        other.write_h5ad(folder / f"{name}.h5ad", compression="gzip")
    in_raw = cells.copy()
    in_raw.raw = cells.copy()
    in_raw.X = cells.X.log1p()
    in_raw.write_h5ad(folder / "raw.h5ad")
    for version in (2, 3):
        anndata.settings.zarr_write_format = version
        cells.write_zarr(folder / f"v{version}.zarr")
    build_corpus([folder / "csr.h5ad"], folder / "shards", obs_columns=["cell_type", "batch"], shard_size=16)
    for family in FAMILIES:
        make_tiny_checkpoint(family, folder / family, genes=GENES)
    make_tiny_checkpoint("scgpt", folder / "annotator", task="annotate", genes=GENES)
    _make_adapter(folder)
    _make_releases(folder / "releases")
    _make_specialists(folder)
    _make_genomes(folder)
    victim = folder / "victim"
    victim.mkdir()
    make_cells(seed=1).write_h5ad(victim / "victim.h5ad")
    (victim / "secret.txt").write_text("0123456789abcdef" * 4096)


def _make_adapter(folder: Path) -> None:
    """An adapter of LoRA and the base that it names."""
    from transformers import AutoModelForSequenceClassification, AutoProcessor

    from sclm_hf.adapters.lora import add_lora, save_adapter

    base = folder / "scgpt"
    labels = dict(enumerate(LABELS))
    settings = {"id2label": labels, "label2id": {name: number for number, name in labels.items()}}
    torch.manual_seed(0)
    model = add_lora(AutoModelForSequenceClassification.from_pretrained(base, **settings), r=2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    save_adapter(model, folder / "adapter", processor=AutoProcessor.from_pretrained(base))


def _make_releases(folder: Path) -> None:
    folder.mkdir()
    scgpt = folder / "scgpt"
    scgpt.mkdir()
    for name in ("best_model.pt", "args.json", "vocab.json"):
        shutil.copy(golden_scgpt.GOLDEN / "case_a" / name, scgpt)
    golden_scbert.release("case_a", folder / "scbert")
    golden_scfoundation.release("case_a", folder / "scfoundation")
    cellplm = folder / "cellplm"
    cellplm.mkdir()
    for name in ("model.best.ckpt", "model.config.json"):
        shutil.copy(golden_cellplm.case_folder("case_b") / name, cellplm)
    shutil.copytree(golden_tgpt.source_folder("case_a"), folder / "tgpt")
    shutil.copytree(golden_iseeek.source_folder("case_a"), folder / "iseeek")
    golden_geneformer.release_folder("case_b", "model", folder / "geneformer")
    golden_uce.original_folder("case_a", folder / "uce")


def _make_specialists(folder: Path) -> None:
    """Task-specific models, hardly trained."""
    small = {"num_attention_heads": 2}
    config = {"ciform": small | {"patch_size": 8}, "deepmaps": small | {"hidden_size": 16, "encoder_sizes": [8]}}
    labels = {"ciform": {"label_key": "cell_type"}, "deepmaps": {}}
    for name in SPECIALISTS:
        training = {"num_train_epochs": 1, "use_cpu": True}
        fit(name, make_cells(), folder / name, model_config=config[name], training=training, **labels[name])


def _make_genomes(folder: Path) -> None:
    """A genome of two chromosomes, plain and packed."""
    generator = np.random.default_rng(0)
    chromosomes = ["".join(generator.choice(list("ACGTacgtN"), 600)) for _ in range(2)]
    lines = [line for number, one in enumerate(chromosomes) for line in (f">chr{number}", one[:300], one[300:])]
    text = "\n".join([*lines, ""]).encode()
    (folder / "genome.fa").write_bytes(text)
    (folder / "genome.fa.gz").write_bytes(gzip.compress(text, mtime=0))


def _windows(path: Path, output: Path) -> np.ndarray:
    """The DNA of two peaks."""
    return PROTRAITProcessor(sequence_length=64)(["chr0:100-200", "chr1:300-400"], genome=path)["input_ids"]


def _read_result(path: Path, key: str) -> np.ndarray:
    """The result in a file, which must open and be finite."""
    with h5py.File(path) as file:
        values, n_cells = file["obsm"][key][()], len(anndata.io.read_elem(file["obs"]))
    # what was not asked for is copied as it is, and unpacked by nobody but this test
    with contextlib.suppress(MemoryError):
        anndata.read_h5ad(path)
    assert len(values) == n_cells and np.isfinite(values).all(), "what was written is not sound"
    return values


def _embed(path: Path, output: Path, model: Path) -> np.ndarray:
    run_files("embed", path, output / "out.h5ad", str(model), device="cpu")
    return _read_result(output / "out.h5ad", f"X_{_family_of(model)}")


def _family_of(model: Path) -> str:
    return model.name if model.name in (*FAMILIES, *SPECIALISTS) else "scgpt"


def _build(path: Path, output: Path) -> np.ndarray:
    build_corpus([path], output / "shards", obs_columns=["cell_type"])
    assert not check_corpus(output / "shards"), "what was written is not sound"
    return _stream(output / "shards", output)


def _stream(path: Path, output: Path) -> np.ndarray:
    # `build` opens the same files at once
    corpus = CellCorpus(path, make_processor("scgpt", GENES), label_column="cell_type", lazy=True)
    batches = list(corpus.batches(8))
    return np.concatenate([np.concatenate([np.ravel(array) for array in batch.values()]) for batch in batches])


def _check(path: Path, output: Path) -> np.ndarray:
    if problems := check_corpus(path):
        raise CorpusError("; ".join(problems))
    return np.zeros(1)


def _convert(family: str) -> Callable[[Path, Path], np.ndarray]:
    def run(path: Path, output: Path) -> np.ndarray:
        import importlib

        from safetensors.torch import load_file

        source = path / "Geneformer-model" if family == "geneformer" else path
        importlib.import_module(get_family(family).conversion_module).convert_checkpoint(source, output / "out")
        files = sorted((output / "out").rglob("*.safetensors"))
        tensors = [tensor.double().ravel() for file in files for _, tensor in sorted(load_file(file).items())]
        values = torch.cat(tensors).numpy()
        assert np.isfinite(values).all(), "weights that are not finite were converted"
        return values

    return run


def targets(sound: Path) -> list[Target]:
    """Everything that is damaged, with every journey that reads it."""

    def embed_with(model: str) -> Callable[[Path, Path], np.ndarray]:
        return lambda path, output: _embed(path, output, sound / model)

    def embed_from(path: Path, output: Path) -> np.ndarray:
        return _embed(sound / "csr.h5ad", output, path)

    def annotate_from(path: Path, output: Path) -> np.ndarray:
        run_files("annotate", sound / "csr.h5ad", output / "out.h5ad", str(path), device="cpu")
        return _read_result(output / "out.h5ad", "sclm_probabilities")

    def stream_with(path: Path, output: Path) -> np.ndarray:
        return _stream(path, output)

    found = []
    for name in ("csr", "dense", "csc", "raw"):
        found.append(Target(f"embed {name}.h5ad", "h5ad", f"{name}.h5ad", embed_with("scgpt")))
        found.append(Target(f"build from {name}.h5ad", "h5ad", f"{name}.h5ad", _build))
        found.append(Target(f"stream {name}.h5ad", "h5ad", f"{name}.h5ad", stream_with))
    found.append(Target("embed csr.h5ad by rank", "h5ad", "csr.h5ad", embed_with("tgpt")))
    for name in ("v2", "v3"):
        found.append(Target(f"embed {name}.zarr", "zarr", f"{name}.zarr", embed_with("scgpt")))
        found.append(Target(f"stream {name}.zarr", "zarr", f"{name}.zarr", stream_with))
        found.append(Target(f"build from {name}.zarr", "zarr", f"{name}.zarr", _build))

    def embed_shards(path: Path, output: Path) -> np.ndarray:
        return _embed(path / "data" / "csr", output, sound / "scgpt")

    for name, run in (("stream", stream_with), ("embed", embed_shards), ("check", _check)):
        found.append(Target(f"{name} shards", "shards", "shards", run))
    for family in FAMILIES:
        found.append(Target(f"load {family}", "checkpoint", family, embed_from))
        if FAMILIES[family].source_layout:
            found.append(Target(f"convert {family}", "release", f"releases/{family}", _convert(family)))
    for name, run in zip(SPECIALISTS, (annotate_from, embed_from), strict=True):
        found.append(Target(f"load {name}", "checkpoint", name, run))
    for name in ("genome.fa", "genome.fa.gz"):
        found.append(Target(f"read {name}", "genome", name, _windows))
    found.append(Target("load annotator", "checkpoint", "annotator", annotate_from))
    found.append(Target("load adapter", "adapter", "adapter", annotate_from))
    return found
