"""A verb is one file in `tasks` and one in `cli`; all else follows from its record."""

import inspect
import sys

import anndata
import numpy as np
import pytest
import scipy.sparse
from typer.testing import CliRunner

import sclm_hf
from sclm_hf import cli, tasks
from sclm_hf.cli.main import make_app
from sclm_hf.errors import ConfigurationError
from sclm_hf.hub.card import CardFacts, render_card
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.running.settings import own_fields_first

from .tiny import make_cells, save_checkpoint

_TASK = '''
from dataclasses import dataclass

from sclm_hf.tasks.running.cell_run import CellRun, Results
from sclm_hf.tasks.running.settings import AddingSettings, setting
from sclm_hf.tasks.running.verb import Verb, documented_by


@dataclass(frozen=True, kw_only=True)
class RankSettings(AddingSettings):
    scale: float = setting(1.0, "what ranks are multiplied by.", least=0)

    def key(self, family):
        return self.key_added or f"rank_{family}"

    def columns(self):
        return (self.key(""),)


class Ranking(CellRun[RankSettings]):
    needs_all = True

    def forward(self, model, batch):
        return model(**batch).cell_embedding * batch["attention_mask"].any(1, keepdim=True)

    def results(self, cells, values):
        import numpy as np
        import scipy.sparse

        ranks = values[:, 0].argsort().argsort() * self.settings.scale
        return Results(
            obs={self.key: ranks},
            obsp={self.key: scipy.sparse.csr_matrix((values @ values.T > 0.5).astype("float32"))},
            layers={self.key: np.tile(ranks[:, None], (1, 91)).astype("float32")},
            uns={self.key: {"largest": ranks.max()}},
        )


RANK = Verb(
    name="rank",
    auto_class="AutoModel",
    settings=RankSettings,
    writes=("obs", "obsp", "layers", "uns"),
    run=Ranking,
    usage='cells = sclm_hf.rank(cells, "{model}")',
)


@documented_by(RANK)
def rank(adata, model, processor=None, *, copy=True, **settings):
    """Rank cells.

    Args:
        adata: cells.
        **settings: the fields of `RankSettings`.
    """
    return RANK.add_to(adata, model, processor, settings, copy=copy)
'''

_COMMAND = '''
from sclm_hf.cli.file_verb import file_verb


@file_verb
def rank(record, column):
    """Rank the cells of a file."""
    print(f"the last is {column.max():g}")
'''


@pytest.fixture
def with_a_verb_more(tmp_path, monkeypatch):
    for package, text in ((tasks, _TASK), (cli, _COMMAND)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / "rank.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    for package in (tasks, cli):
        sys.modules.pop(f"{package.__name__}.rank", None)
        vars(package).pop("rank", None)


@pytest.fixture
def model(tmp_path):
    return save_checkpoint(tmp_path / "model")


def check(result, scale):
    assert sorted(result.obs["rank_scgpt"]) == [scale * number for number in range(23)]
    assert result.obsp["rank_scgpt"].shape == (23, 23) and scipy.sparse.issparse(result.obsp["rank_scgpt"])
    np.testing.assert_array_equal(result.layers["rank_scgpt"][:, 0], result.obs["rank_scgpt"])
    assert result.uns["rank_scgpt"]["largest"] == scale * 22
    assert result.uns["sclm_hf"]["rank_scgpt"]["settings"]["scale"] == scale


def test_a_new_verb_runs_on_an_anndata_from_file_to_file_and_as_a_command(with_a_verb_more, model, tmp_path):
    in_memory = tasks.get_function("rank")(make_cells(), model, scale=2, batch_size=5)
    check(in_memory, 2)
    make_cells().write_h5ad(tmp_path / "in.h5ad")
    run_files("rank", tmp_path / "in.h5ad", tmp_path / "out.h5ad", model, scale=2)
    check(anndata.read_h5ad(tmp_path / "out.h5ad"), 2)
    arguments = ["rank", str(tmp_path / "in.h5ad"), str(tmp_path / "again.h5ad"), "--model", model, "--scale", "3"]
    result = CliRunner().invoke(make_app(), arguments)
    assert result.exit_code == 0 and "the last is 66" in result.output, result.output
    check(anndata.read_h5ad(tmp_path / "again.h5ad"), 3)


def test_a_new_verb_has_help_a_card_and_its_settings_checked(with_a_verb_more):
    help = CliRunner().invoke(make_app(), ["rank", "--help"]).output
    assert "Rank the cells of a file." in help and "What ranks are multiplied by." in help and "--batch-key" in help
    card = render_card(CardFacts("a", "scgpt", "mit", "a model", task="rank"))
    assert 'cells = sclm_hf.rank(cells, "path/to/this/folder")' in str(card)
    with pytest.raises(ConfigurationError, match=r"`scale` \(`--scale`\) must be at least 0, got -1"):
        tasks.get_function("rank")(make_cells(), "never looked at", scale=-1)


def test_results_of_all_cells_that_do_not_lie_in_an_h5ad_stand_there_without_data(with_a_verb_more, model, tmp_path):
    make_cells().write_zarr(tmp_path / "in.zarr")
    run_files("rank", tmp_path / "in.zarr", tmp_path / "out.h5ad", model)
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    check(written, 1)
    assert written.X is None and list(written.var_names) == list(make_cells().var_names)


@pytest.mark.parametrize("name", tasks.verb_names())
def test_functions_show_their_settings_and_each_is_documented_once(name):
    function = getattr(sclm_hf, name)
    parameters, documentation = inspect.signature(function).parameters, inspect.getdoc(function)
    for field in own_fields_first(function.verb.settings):
        assert parameters[field.name].default == field.default
        assert documentation.count(f"\n    {field.name}: {field.metadata['help'][:40]}") == 1
    assert "**settings" not in documentation and "settings" not in parameters
    assert f"sclm_hf.{name}(cells, " in function.verb.usage.format(model="m", family="scgpt")


def test_a_setting_that_does_not_exist_is_named_with_the_nearest_that_does():
    with pytest.raises(ConfigurationError, match=r"`bath_size` of `embed`. Did you mean `batch_size`\?"):
        sclm_hf.embed(make_cells(), "never looked at", bath_size=3)


def test_what_is_no_verb_is_refused():
    with pytest.raises(ConfigurationError, match=r"no verb .embedd.: expected one of annotate, .*embed, .*perturb"):
        run_files("embedd", "in.h5ad", "out.h5ad", "never looked at")
