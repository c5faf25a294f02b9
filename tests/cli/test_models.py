import json
import subprocess
import sys

from typer.testing import CliRunner

from sclm_hf.cli.main import app
from sclm_hf.registry import COMPOSITES, FAMILIES
from sclm_hf.registry.specialists import SPECIALISTS


def run(*arguments):
    return CliRunner().invoke(app, ["models", *arguments])


def test_tables_name_every_family_and_size():
    shown = run().output
    for family in FAMILIES.values():
        for word in (family.name, family.title, *family.sizes):
            assert word in shown


def test_json_says_what_may_be_hosted_again():
    facts = {one["family"]: one for one in json.loads(run("--json").output)}
    assert set(facts) == {*FAMILIES, *COMPOSITES, *SPECIALISTS}
    assert facts["scgpt"]["redistributable"] is True and facts["scbert"]["redistributable"] is False
    for one in map(facts.get, FAMILIES):
        assert one["sizes"] and one["tasks"] and one["repository"] and one["weights_license"]
        assert bool(one["source_layout"]) == (one["family"] != "linear") and not one["source_layout"].endswith(".")


def test_one_family_and_unknown_ones():
    shown = run("scgpt").output
    assert "bowang-lab/scGPT" in shown and "Geneformer" not in shown
    assert (
        "`sclm-hf convert scgpt SOURCE OUTPUT` takes a folder with `best_model.pt`, `args.json` and `vocab.json`."
        in shown
    )
    assert "model_{epoch}.pth" in run("tgpt").output
    wrong = run("scgtp")
    assert wrong.exit_code == 1 and "There is no family `scgtp`" in wrong.output


def test_models_of_cells_and_text_are_listed():
    shown = run().output
    for one in COMPOSITES.values():
        assert one.name in shown and one.title in shown
    alone = run("cell_text_dual_encoder").output
    assert "annotate, embed, search" in alone and "scGPT" not in alone


def test_reads_the_registry_only():
    code = (
        "import sys; from typer.testing import CliRunner; from sclm_hf.cli.main import app; "
        "assert CliRunner().invoke(app, ['models']).exit_code == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_verbs_of_a_family_follow_from_its_classes():
    told = {one["family"]: one["tasks"] for one in json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)}
    assert all({"annotate", "embed", "evaluate", "map"} <= set(told[family]) for family in FAMILIES)
    assert "perturb" in told["scgpt"] and "perturb" not in told["scbert"]
    assert "impute" in told["cellplm"] and "impute" not in told["scgpt"]
