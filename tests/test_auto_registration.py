"""A bare `import sclm_hf` is cheap, and still enough for transformers' Auto classes; in any order of imports."""

import subprocess
import sys

import pytest

from sclm_hf import FAMILIES
from sclm_hf.registry import COMPOSITES, STANDALONE
from sclm_hf.registry.specialists import SPECIALISTS
from sclm_hf.tasks import verb_names

from .modeling.scgpt.golden_scgpt import convert_case


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return convert_case("case_b", tmp_path_factory.mktemp("auto"))


RECORDS = sum(map(len, (FAMILIES, COMPOSITES, STANDALONE, SPECIALISTS)))


def loaded(code: str) -> set[str]:
    """Modules that `code` loads, of Python's own library none."""
    lines = run(f"import sys; before = set(sys.modules)\n{code}\nprint('modules:', *set(sys.modules) - before)")
    modules = lines.rpartition("modules:")[2].split()
    return {module for module in modules if module.partition(".")[0] not in sys.stdlib_module_names}


def test_import_is_cheap_and_pulls_in_nothing_else():
    modules = loaded("import sclm_hf")
    assert {module.partition(".")[0] for module in modules} == {"sclm_hf"}
    # a family is one file of literals
    assert len(modules) - RECORDS <= 13


def test_command_line_help_loads_only_what_draws_it():
    ask = "from sclm_hf.cli import run\nsys.argv = ['sclm-hf', '--help']\ntry: run()\nexcept SystemExit: pass"
    modules = loaded(ask)
    assert "sclm_hf.cli.main" in modules
    assert not {"torch", "transformers", "numpy", "scipy", "pandas", "anndata", "huggingface_hub"} & modules
    ours = sum(module.startswith("sclm_hf") for module in modules) - RECORDS
    assert ours <= 44 + 2 * len(verb_names())


EXPECTED = {
    "AutoConfig": "ScGPTConfig",
    "AutoModel": "ScGPTModel",
    "AutoModelForPreTraining": "ScGPTForMaskedExpression",
    "AutoModelForSequenceClassification": "ScGPTForSequenceClassification",
    "AutoTokenizer": "GeneTokenizer",
    "AutoFeatureExtractor": "ExpressionFeatureExtractor",
    "AutoProcessor": "CellProcessor",
}


@pytest.mark.parametrize(
    "name", ["AutoModel", *(pytest.param(name, marks=pytest.mark.slow) for name in EXPECTED if name != "AutoModel")]
)
def test_each_auto_class_alone_opens_our_folder(folder, name):
    code = f"import sclm_hf, transformers; print(type(transformers.{name}.from_pretrained({str(folder)!r})).__name__)"
    assert run(code).splitlines()[-1] == EXPECTED[name]


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(f"from transformers import {', '.join(EXPECTED)}; import sclm_hf", marks=pytest.mark.slow),
        pytest.param("from sclm_hf.modeling.scgpt.modeling_scgpt import ScGPTModel", marks=pytest.mark.slow),
        pytest.param("from sclm_hf.tokenization.processing_cell import CellProcessor", marks=pytest.mark.slow),
    ],
    ids=["transformers", "our model", "our processor"],
)
def test_any_order_of_imports(folder, first):
    names = f"[type(getattr(transformers, n).from_pretrained({str(folder)!r})).__name__ for n in {list(EXPECTED)}]"
    assert run(f"{first}; import transformers; print({names})").splitlines()[-1] == str(list(EXPECTED.values()))


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import sclm_hf, peft", "import peft, sclm_hf"])
def test_peft_knows_what_lora_adapts(first):
    code = (
        f"{first}; from sclm_hf import ScGPTConfig, ScGPTModel;"
        "tiny = ScGPTConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,"
        " intermediate_size=8, pad_token_id=0);"
        "print(len(peft.get_peft_model(ScGPTModel(tiny), peft.LoraConfig()).targeted_module_names))"
    )
    assert run(code).splitlines()[-1] == "4"


@pytest.mark.slow
def test_register_is_enough_and_can_be_repeated(folder):
    code = (
        "import sys, sclm_hf; sys.meta_path = [f for f in sys.meta_path if 'sclm_hf' not in type(f).__module__];"
        "sclm_hf.register(); sclm_hf.register(); from transformers import AutoModel;"
        f"print(type(AutoModel.from_pretrained({str(folder)!r})).__name__)"
    )
    assert run(code).splitlines()[-1] == "ScGPTModel"


def test_public_names_exist():
    import sclm_hf

    for name in sclm_hf.__all__:
        assert getattr(sclm_hf, name) is not None
    with pytest.raises(AttributeError, match="no attribute `Nonsense`"):
        sclm_hf.Nonsense  # noqa: B018
    for family in (*FAMILIES.values(), *COMPOSITES.values()):
        assert {family.config, *family.models} <= set(sclm_hf.__all__)
        assert set(family.auto_classes.values()) <= set(family.models)


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "transformers.modeling_layers",
        "transformers.models.bert.modeling_bert",
        "transformers.models.gpt2.modeling_gpt2",
        "sclm_hf.modeling.common.performer",
    ],
)
def test_what_models_need_may_be_imported_first(first):
    """It imports the Auto models, which register ours, which import it."""
    code = f"import sclm_hf, {first}\nfrom transformers import AutoModel, AutoConfig\n"
    code += "print(type(AutoModel.from_config(AutoConfig.for_model('scgpt', num_hidden_layers=1, vocab_size=60697))))"
    assert "ScGPTModel" in run(code)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["sclm_hf.tasks.engines.pipelines", "transformers.pipelines"])
def test_pipelines_may_be_imported_in_any_order(first):
    code = f"import sclm_hf, {first}\nfrom transformers.pipelines import PIPELINE_REGISTRY\n"
    assert run(f"{code}print('cell-embedding' in PIPELINE_REGISTRY.supported_tasks)").splitlines()[-1] == "True"
