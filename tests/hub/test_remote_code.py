"""Folders that bring their code, opened where the package is not installed."""

import ast
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoProcessor
from transformers.dynamic_module_utils import get_relative_import_files
from typer.testing import CliRunner

from sclm_hf import FAMILIES, __version__, annotate
from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.hub.card import CardFacts, write_card
from sclm_hf.hub.push import push_to_hub
from sclm_hf.hub.remote_code import ENTRY, export_with_code
from sclm_hf.opening.dual_encoders import new_dual_encoder, small_text_encoder
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.tokenization.genes.table_files import packed_table

from ..bare_site import make_site, run_script
from ..modeling.cell_text.tiny import small_cell_text_model
from ..tasks.tiny import make_cells
from . import auto_composites, auto_outputs
from .hub_folders import client_environment, contents
from .round_trip import logits


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder of the packages that a card says to install, and of nothing else."""
    return make_site(tmp_path_factory.mktemp("site"))


def run(
    name: str, output: Path, *, script: ModuleType = auto_outputs, site: Path | None = None, **environment: str
) -> dict[str, np.ndarray]:
    """What `auto_outputs` says, in a process of its own; with `site`, without this package."""
    # code of the same name and content is the same module, whose kernels are compiled once
    saved = output.with_name(f"{output.name}_saved") / Path(name).name
    arguments = (name, f"{output}.npz", str(saved))
    run_script(script.__file__, *arguments, folder=output.parent, site=site, **environment)
    return dict(np.load(f"{output}.npz"))


def check_equal(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], has: str = "model.cell_embedding"
) -> None:
    assert found.keys() == expected.keys() and has in found
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, key)
        assert found[key].dtype == value.dtype and np.isfinite(value).all(), key


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_opens_without_the_package_and_gives_the_same_to_the_last_bit(family, site, tmp_path):
    folder = make_tiny_checkpoint(family, tmp_path / "model", task="annotate")
    exported = export_with_code(folder, tmp_path / "exported")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "code")}
    expected = run(str(folder), tmp_path / "installed")
    check_equal(run(str(exported), tmp_path / "without", site=site, **offline), expected)


def talking(folder: Path, family: str) -> None:
    """Save a language model that reads cells."""
    for part in small_cell_text_model(folder, family):
        part.save_pretrained(folder / "model")


def comparing(folder: Path, family: str) -> None:
    """Save a dual encoder."""
    make_tiny_checkpoint(family, folder / "cells")
    texts = small_text_encoder(auto_composites.TEXTS, hidden_size=16, num_hidden_layers=1)
    for part in new_dual_encoder(str(folder / "cells"), texts, projection_dim=12):
        part.save_pretrained(folder / "model")


def test_a_model_of_cells_and_text_is_copied_with_both_its_parts_named(tmp_path):
    comparing(tmp_path, "scgpt")
    (tmp_path / "model" / "README.md").write_text("# Mine")
    exported = export_with_code(tmp_path / "model", tmp_path / "exported")
    call = 'model(**processor(cells, ["it makes antibodies"], return_tensors="pt")).logits'
    assert call in (exported / "README.md").read_text()
    maps = [json.loads((exported / f"{name}config.json").read_text())["auto_map"] for name in ("", "processor_")]
    assert maps[0]["AutoModel"] == f"{ENTRY}.CellTextDualEncoderModel"
    assert maps[1] == {"AutoProcessor": f"{ENTRY}.CellTextDualEncoderProcessor"}
    assert "auto_map" not in (exported / "cell_processor" / "processor_config.json").read_text()
    assert "ScGPTModel" in (exported / f"{ENTRY}.py").read_text()
    (tmp_path / "model" / "cell_processor" / "processor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds no `cell_processor/processor_config\.json`"):
        export_with_code(tmp_path / "model", tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["scgpt", "geneformer"])
@pytest.mark.parametrize(("make", "has"), [(talking, "answer"), (comparing, "model.logits")])
def test_a_model_of_cells_and_text_opens_without_the_package(make, has, family, site, tmp_path):
    make(tmp_path, family)
    exported = export_with_code(tmp_path / "model", tmp_path / "exported")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "code")}
    expected = run(str(tmp_path / "model"), tmp_path / "installed", script=auto_composites)
    without = run(str(exported), tmp_path / "without", script=auto_composites, site=site, **offline)
    check_equal(without, expected, has)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The classifier's folder with its code, made by the command."""
    folder = tmp_path_factory.mktemp("exported") / "folder"
    result = CliRunner().invoke(make_app(), ["export", "with-code", str(model), str(folder)])
    assert result.exit_code == 0 and "trust_remote_code=True" in result.output, result.output
    return folder


def test_a_copy_differs_in_its_code_and_in_what_names_it(exported, model):
    before, after = contents(model), contents(exported)
    code = {name for name in after if name.startswith("sclm_")}
    named = {"config.json", "tokenizer_config.json", "processor_config.json", "README.md", "card_facts.json"}
    assert after.keys() == before.keys() | code
    assert {name for name in before if before[name] != after[name]} == named
    for name in code:
        text = after[name].decode()
        assert "Apache License, Version 2.0" in text and f"of sclm_hf {__version__}." in text, name
    reached = get_relative_import_files(exported / f"{ENTRY}.py")
    assert {Path(file).name for file in reached} | {f"{ENTRY}.py"} == code


def test_every_class_that_auto_map_names_is_in_the_entry(exported):
    entry = (exported / f"{ENTRY}.py").read_text()
    there = {alias.name for node in ast.parse(entry).body if isinstance(node, ast.ImportFrom) for alias in node.names}
    maps = [json.loads((exported / f"{name}_config.json").read_text()) for name in ("tokenizer", "processor")]
    maps = [*maps, maps[1]["feature_extractor"], json.loads((exported / "config.json").read_text())]
    named = [one if isinstance(one, str) else one[0] for each in maps for one in each["auto_map"].values()]
    assert len(named) == 7
    for one in named:
        module, _, name = one.partition(".")
        assert module == ENTRY and name in there


def test_the_gene_tables_travel_whole(exported):
    module = {}
    exec((exported / "sclm_tokenization_genes_table_files.py").read_text(), module)
    for name in ("human_genes.tsv.gz", "mouse_orthologs.tsv.gz"):
        assert module["packed_table"](name) == packed_table(name)


def test_with_the_package_the_folder_is_as_any_other_and_what_is_saved_names_no_code(exported, model, tmp_path):
    processor = AutoProcessor.from_pretrained(exported)
    ours = AutoModelForSequenceClassification.from_pretrained(exported)
    assert type(ours).__module__.startswith("sclm_hf.") and logits(ours, processor) == logits(
        *(auto.from_pretrained(model) for auto in (AutoModelForSequenceClassification, AutoProcessor))
    )
    ours.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert not any("auto_map" in file.read_text() for file in tmp_path.glob("*.json"))
    assert annotate(make_cells(), exported).obs["sclm_prediction"].notna().all()


def test_the_card_says_so_and_shows_two_lines(exported, model):
    card = (exported / "README.md").read_text()
    assert "brings the code" in card and "runs no code" not in card
    for auto in ("AutoProcessor", "AutoModel"):
        assert f'{auto}.from_pretrained("me/model", trust_remote_code=True)' in card
    assert "trust_remote_code" not in (model / "README.md").read_text()
    assert CardFacts.load(exported / "card_facts.json").brings_code


def test_a_card_of_ones_own_gets_a_section_once(model, tmp_path):
    own = shutil.copytree(model, tmp_path / "own")
    (own / "card_facts.json").unlink()
    (own / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    first = export_with_code(own, tmp_path / "first")
    (first / "sclm_old.py").write_text("")
    again = export_with_code(first, tmp_path / "again")
    card = (again / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n---\n\n# Mine\n\n## Without") and card.count("## Without") == 1
    assert not (again / "sclm_old.py").exists()


def test_a_push_adds_the_code_and_a_push_without_takes_it_away(hub, model, exported):
    push_to_hub(model, "me/model", with_code=True)
    assert hub.store.repository("me/model").contents() == contents(exported)
    push_to_hub(model, "me/model")
    assert hub.store.repository("me/model").contents() == contents(model)
    push_to_hub(exported, "me/model")
    assert hub.store.repository("me/model").contents() == contents(exported)


def test_what_has_no_code_to_bring_is_refused(model, adapter, shards, tmp_path):
    def refuses(folder, says, error=CheckpointError):
        with pytest.raises(error, match=says):
            export_with_code(folder, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    refuses(adapter, "holds an adapter: export the whole model")
    refuses(tmp_path / "none", "is not a folder", ConfigurationError)
    refuses(shards, "holds no `config.json`")
    stock = shutil.copytree(model, tmp_path / "stock")
    (stock / "config.json").write_text('{"model_type": "bert"}')
    refuses(
        stock, "a `bert` model, whose code cannot be exported: expected one of cell_text, .*class opens and saves it"
    )
    (stock / "config.json").write_text('{"model_type": "cell_text", "cell_config": {"model_type": "vit"}}')
    refuses(stock, "a `vit` model, whose code cannot be exported: expected one of cellplm")
    bare = shutil.copytree(model, tmp_path / "bare")
    (bare / "processor_config.json").unlink()
    refuses(bare, "holds no `processor_config.json`: save the model's processor there")
    with pytest.raises(ConfigurationError, match="is for models"):
        push_to_hub(shards, "me/cells", repo_type="dataset", with_code=True)
    with pytest.raises(ConfigurationError, match="stock"):
        export_with_code(model, stock)


@pytest.mark.slow
def test_a_pushed_model_opens_without_the_package(hub, site, tmp_path):
    model = make_tiny_checkpoint("geneformer", tmp_path / "model", task="annotate")
    write_card(CardFacts("Tiny", "geneformer", "mit", "A tiny model.", model="me/model"), model)
    push_to_hub(model, "me/model", with_code=True)
    home = client_environment(hub, tmp_path / "home")
    found = run("me/model", tmp_path / "without", site=site, **home)
    check_equal(found, run(str(model), tmp_path / "installed"))
