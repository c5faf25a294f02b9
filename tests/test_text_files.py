"""Text files of settings and names that anybody may have written, read by all who take them."""

import os

import pytest

from sclm_hf.corpora.labels.descriptions import read_descriptions
from sclm_hf.corpora.labels.ontology import Ontology
from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.perturbations.features import read_features
from sclm_hf.evaluation.perturbations.splits import PerturbationSplit
from sclm_hf.tasks.running.gene_names import read_names
from sclm_hf.text.templates import load_templates
from sclm_hf.training.arguments import TrainingConfig, parse_arguments
from sclm_hf.training.gene_embeddings import read_gene_embeddings

READERS = {
    "split.toml": PerturbationSplit.read,
    "recipe.yaml": lambda path: parse_arguments((TrainingConfig,), ["--output_dir", "out", "--config", str(path)]),
    "ontology.yaml": Ontology.load,
    "labels.json": read_descriptions,
    "labels.csv": read_descriptions,
    "task.yaml": load_templates,
    "genes.txt": lambda path: read_names(path, "`genes`"),
    "features.tsv": read_features,
    "embeddings.csv": read_gene_embeddings,
}
"""Text that anybody may have written -> what reads it."""


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_or_no_text_in_place_of_text_is_refused(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(ConfigurationError):
        READERS[name](path)
    path.unlink()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError):
        READERS[name](path)


@pytest.mark.parametrize("name", ["split.toml", "recipe.yaml", "ontology.yaml", "labels.json", "task.yaml"])
def test_text_nested_without_end_is_refused(tmp_path, name):
    (tmp_path / name).write_text(("a = " if name == "split.toml" else "") + "[" * 10_000)
    with pytest.raises(ConfigurationError):
        READERS[name](tmp_path / name)
