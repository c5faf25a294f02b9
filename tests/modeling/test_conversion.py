"""Damaged releases: one error that names the file or the tensor, before the output is made."""

import json
import os
import shutil
import zipfile

import pytest
import torch

from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.files import sole_writer
from sclm_hf.modeling.scbert.convert_scbert import read_names
from sclm_hf.modeling.scgpt.convert_scgpt import convert_checkpoint

from .scgpt.golden_scgpt import GOLDEN

NAME = "transformer_encoder.layers.0.linear1.weight"


@pytest.fixture
def source(tmp_path):
    (tmp_path / "release").mkdir()
    for name in ("best_model.pt", "args.json", "vocab.json"):
        shutil.copy(GOLDEN / "case_a" / name, tmp_path / "release")
    return tmp_path / "release"


def on_tensor(change):
    def damage(source):
        tensors = torch.load(source / "best_model.pt", weights_only=True)
        tensors[NAME] = change(tensors[NAME])
        torch.save(tensors, source / "best_model.pt")

    return damage


def on_settings(**changes):
    return lambda source: (source / "args.json").write_text(
        json.dumps(json.loads((source / "args.json").read_text()) | changes)
    )


def write(name, content):
    return lambda source: (source / name).write_text(content)


def pipe(source):
    (source / "args.json").unlink()
    os.mkfifo(source / "args.json")


def compressed(source):
    with zipfile.ZipFile(source / "best_model.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**22))


def many_names_of_one_tensor(source):
    tensor = torch.zeros(2**18)
    torch.save({str(number): tensor for number in range(50)}, source / "best_model.pt")


DAMAGES = {
    "NaN": (on_tensor(lambda weight: weight * torch.nan), f"`{NAME}`.*NaN"),
    "infinite": (on_tensor(lambda weight: weight + torch.inf), f"`{NAME}`.*infinite"),
    "whole numbers": (on_tensor(lambda weight: weight.long()), "linear1.weight holds integer numbers"),
    "booleans": (on_tensor(lambda weight: weight.bool()), "linear1.weight holds boolean numbers"),
    "complex": (on_tensor(lambda weight: weight.to(torch.complex64)), "linear1.weight holds complex numbers"),
    "stride 0": (on_tensor(lambda weight: torch.zeros(1).expand(2**20, 2**20)), f"`{NAME}`.*claims the shape"),
    "no storage": (on_tensor(lambda weight: torch.zeros(2**40, device="meta")), f"`{NAME}`.*claims the shape"),
    "sparse": (on_tensor(lambda weight: torch.eye(3).to_sparse()), f"`{NAME}`.*claims the shape"),
    "many layers": (on_settings(nlayers=10**9), "`num_hidden_layers` is 1,000,000,000"),
    "wide layers": (on_settings(embsize=10**10), "`hidden_size` is 10,000,000,000"),
    "a word": (on_settings(n_bins="x"), r"args.json` is damaged.*num_bins"),
    "nothing": (on_settings(n_bins=None), r"args.json` is damaged.*num_bins"),
    "a list": (on_settings(max_seq_len=[]), r"args.json` is damaged.*max_length"),
    "one dot": (write("best_model.pt", "."), "best_model.pt` cannot be read as a torch file"),
    "no bytes": (write("best_model.pt", ""), "best_model.pt` cannot be read as a torch file"),
    "a pipe": (pipe, "args.json` is a pipe"),
    "deep settings": (write("args.json", "[" * 10**5), "args.json` is nested too deeply"),
    "a gene twice": (write("vocab.json", '{"A": 0, "A": 1}'), "vocab.json` names 'A' twice"),
    "a compressed file": (compressed, r"best_model.pt` claims 4,194,304 bytes"),
    "one tensor, many names": (many_names_of_one_tensor, r"best_model.pt` claims tensors of 52,428,800 bytes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_release_is_refused_before_the_output_is_made(source, tmp_path, damage):
    change, message = DAMAGES[damage]
    change(source)
    with pytest.raises(CheckpointError, match=message):
        convert_checkpoint(source, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_an_output_that_is_taken_is_refused_before_anything_is_read(tmp_path):
    output = tmp_path / "output"
    with sole_writer(output), pytest.raises(ConfigurationError, match="is being written by"):
        convert_checkpoint(tmp_path / "nowhere", str(output))
    output.mkdir()
    (output / "precious").touch()
    with pytest.raises(ConfigurationError, match="not an empty folder"):
        convert_checkpoint(tmp_path / "nowhere", str(output))


def test_each_name_is_looked_at_once(tmp_path):
    path = tmp_path / "genes.txt"
    path.write_text("\n".join(map(str, range(300_000))))
    assert len(read_names(path)) == 300_000
