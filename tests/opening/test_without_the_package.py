"""What transformers says of our folders in a process that never imported us."""

import json
import subprocess
import sys

import pytest
from transformers import AutoProcessor, AutoTokenizer

from sclm_hf.opening.tiny import make_tiny_checkpoint

SCRIPT = """
import json, sys, transformers
found = {}
for name in ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoFeatureExtractor", "AutoProcessor"):
    try:
        getattr(transformers, name).from_pretrained(sys.argv[1])
        found[name] = "opened"
    except (ValueError, OSError) as error:
        found[name] = str(error)
assert "sclm_hf" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_checkpoint("tgpt", tmp_path_factory.mktemp("tiny"))


@pytest.mark.slow
def test_no_auto_class_opens_a_folder_as_something_else(folder):
    result = subprocess.run([sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, check=True)
    said = json.loads(result.stdout.splitlines()[-1])
    # transformers leaves no place to say more in these
    assert "model type `tgpt`" in said["AutoConfig"] and "model type `tgpt`" in said["AutoModel"]
    assert "Unrecognized feature extractor" in said["AutoFeatureExtractor"]
    assert "Unrecognized processing class" in said["AutoProcessor"]
    assert "pip install sclm_hf" in said["AutoTokenizer"]


def test_with_the_package_the_notice_is_not_there(folder, tmp_path):
    for saved in (AutoTokenizer.from_pretrained(folder), AutoProcessor.from_pretrained(folder).tokenizer):
        assert saved.truncation_side == "right" and type(saved).__name__ == "GeneTokenizer"
    saved.save_pretrained(tmp_path)
    name = "tokenizer_config.json"
    notices = [json.loads((place / name).read_text())["truncation_side"] for place in (folder, tmp_path)]
    assert notices[0] == notices[1] and "pip install sclm_hf" in notices[0]
    saved.truncation_side = "left"
    saved.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).truncation_side == "left"
