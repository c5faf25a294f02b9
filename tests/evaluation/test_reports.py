import io

import numpy as np
import pytest
from rich.console import Console

from sclm_hf.errors import ConfigurationError
from sclm_hf.evaluation.metrics import Predictions
from sclm_hf.evaluation.reports import ResultsTable, compare
from sclm_hf.versions import package_versions

TRUE = np.array(["B", "B", "T", "T"])


def table() -> ResultsTable:
    methods = {
        "scGPT | LoRA": [Predictions("seed 0", np.arange(4), TRUE, TRUE)],
        "PCA": [Predictions("seed 0", np.arange(4), TRUE, np.array(["B", "B", "T", "B"]))],
    }
    return ResultsTable(
        "pbmc",
        "scanpy 1.11",
        "cell type annotation",
        compare(methods, reference="PCA"),
        seeds=(0,),
        versions=package_versions("numpy", "no-such-package"),
        notes=["Four cells."],
    )


def test_table_survives_json(tmp_path):
    table().save(tmp_path / "results.json")
    assert ResultsTable.load(tmp_path / "results.json") == table()


def test_table_holds_scores_and_paired_differences():
    results = {(one.method, one.reference, one.metric): one for one in table().results}
    assert results["scGPT | LoRA", None, "accuracy"].mean == 1
    assert results["PCA", None, "accuracy"].mean == 0.75
    gap = results["scGPT | LoRA", "PCA", "accuracy"]
    assert gap.mean == 0.25 and gap.text.startswith("+0.250")
    assert set(table().versions) == {"python", "sclm_hf", "numpy"}


def test_markdown_is_a_table_with_caption_and_notes():
    lines = table().to_markdown().splitlines()
    assert lines[0] == "| method | accuracy | macro-F1 |"
    assert lines[2].startswith("| scGPT \\| LoRA | 1.000 (1.000 to 1.000)")
    assert lines[4].startswith("| scGPT \\| LoRA minus PCA | +0.250")
    assert any(line.startswith("Mean over 1 splits of pbmc (scanpy 1.11), 95% bootstrap") for line in lines)
    assert lines[-1] == "- Four cells."


def test_intervals_over_splits_have_a_column_of_their_own():
    right, wrong = np.array(["B", "B", "T", "T"]), np.array(["B", "T", "T", "T"])
    methods = {"a": [Predictions(f"seed {n}", np.arange(4), TRUE, one) for n, one in enumerate((right, wrong))]}
    results = compare(methods, metrics=("accuracy",), units=("cells", "splits"))
    shown = ResultsTable("pbmc", "scanpy 1.11", "annotation", results)
    assert shown.rows()[0] == ["method", "accuracy", "accuracy, interval over splits"]
    assert shown.rows()[1][0][2] == "0.875 (0.750 to 1.000)"
    assert "over 4 cells tested, or the splits, where the column says so" in shown.caption()


def test_rich_table_shows_every_method():
    output = io.StringIO()
    Console(file=output, width=120).print(table().to_rich())
    assert "cell type annotation: pbmc" in output.getvalue() and "PCA" in output.getvalue()


def test_bad_input_is_named(tmp_path):
    (tmp_path / "results.json").write_text('{"dataset": "pbmc"}')
    with pytest.raises(ConfigurationError, match="not a results table"):
        ResultsTable.load(tmp_path / "results.json")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    for name, told in (("deep", "nested too deeply"), ("absent", "No such file")):
        with pytest.raises(ConfigurationError, match=rf"{name}\.json` .*{told}"):
            ResultsTable.load(tmp_path / f"{name}.json")
    with pytest.raises(ConfigurationError, match="`reference` 'kNN'"):
        compare({}, reference="kNN")
