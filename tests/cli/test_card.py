import json

from typer.testing import CliRunner

from sclm_hf.cli.main import app


def test_card_is_started_then_rendered_from_its_facts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "scgpt", "architectures": ["ScGPTModel"]}))
    result = CliRunner().invoke(app, ["card", str(tmp_path), "--license", "mit", "--title", "First"])
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "card_facts.json").read_text())
    facts["limits"] = ["One donor."]
    (tmp_path / "card_facts.json").write_text(json.dumps(facts))
    assert CliRunner().invoke(app, ["card", str(tmp_path)]).exit_code == 0
    text = (tmp_path / "README.md").read_text()
    assert "# First" in text and "- One donor." in text and "license: mit" in text


def test_our_errors_are_a_message_and_no_traceback(tmp_path):
    result = CliRunner().invoke(app, ["card", str(tmp_path), "--license", "mit"])
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("Error: ") and "not a checkpoint folder" in result.stderr
