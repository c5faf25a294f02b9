import dataclasses
import json
import shutil

import anndata
import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from sclm_hf import annotate, evaluate
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.hub.card import render_card, start_facts
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.sources.opening import open_source
from sclm_hf.tasks.files.file_to_file import run_files
from sclm_hf.tasks.files.fingerprint import model_hash
from sclm_hf.text.annotator import load_text_annotator
from sclm_hf.text.chat_models import open_chat_model
from sclm_hf.text.codebook import CODEBOOK_FILE, Codebook
from sclm_hf.text.language_models import small_language_model, word_tokenizer
from sclm_hf.training.settings.text import TextArguments

from .h5ad_files import GENES, LABELS, write_h5ad
from .text_training import SIZES, losses_of, share_right, tuned


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    files = [str(write_h5ad(folder / f"{seed}.h5ad", 60, seed=seed)) for seed in range(2)]
    result = tuned(
        files[:1],
        folder / "out",
        eval_files=files[1:],
        partners=True,
        text={"n_genes": 12, "text_config": SIZES},
        config={"num_train_epochs": 6, "per_device_train_batch_size": 8, "logging_steps": 4},
    )
    return files, folder / "out", result


def test_a_small_language_model_learns_to_name_cells(trained):
    _, folder, result = trained
    losses = losses_of(result)
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert {"eval_accuracy", "eval_log_loss", "eval_temperature"} < set(result.metrics)
    assert (folder / "training_manifest.parquet").exists()


def test_the_decision_pipeline_gets_the_fitted_temperature(trained):
    _, folder, result = trained
    decision = json.loads((folder / "decision.json").read_text())
    assert decision["temperature"]["choice"] == result.metrics["eval_temperature"]
    assert decision["labels"]["choice"] == sorted(LABELS)


def test_annotate_gives_the_columns_of_an_encoder(trained):
    files, folder, result = trained
    cells = annotate(anndata.read_h5ad(files[1]), folder)
    assert set(cells.obs["sclm_prediction"].cat.categories) == set(LABELS)
    assert cells.obs["sclm_confidence"].between(0, 1).all()
    assert share_right(files[1], folder) == pytest.approx(result.metrics["eval_accuracy"], abs=1e-3)


def test_annotate_weighs_a_language_model_with_its_partners(trained):
    files, folder, result = trained
    cells = anndata.read_h5ad(files[1])
    together = annotate(cells, folder)
    kept = json.loads((folder / "partners.json").read_text())["weights"]
    used = together.uns["sclm_hf"]["sclm_prediction"]["partners"]
    assert kept == result.comparison.weights == {name: weight for name, weight in used.items() if weight}
    right = (together.obs["sclm_prediction"].astype(str) == together.obs["cell_type"].astype(str)).mean()
    assert right >= share_right(files[1], folder)
    assert "The temperature of its answers and the checkpoint were chosen on the same cells" in result.summary()
    assert "| saved annotator |" in str(render_card(start_facts(folder, license="mit")))


def test_a_fifth_of_the_cells_is_held_out_for_partners(trained, tmp_path):
    files, _, _ = trained
    result = tuned(
        files[:1], tmp_path, partners=True, text={"n_genes": 4, "text_config": SIZES}, config={"max_steps": 1}
    )
    assert result.comparison.tested_on == "12 cells held out"


def test_batches_change_nothing(trained):
    files, folder, _ = trained
    cells = anndata.read_h5ad(files[1])
    one, many = (annotate(cells, folder, batch_size=n, partners=False).obs["sclm_confidence"] for n in (1, 32))
    np.testing.assert_allclose(one, many, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "text", "message"),
    [
        ({"head": "probe"}, {}, "lora or full"),
        ({"head": "lora"}, {}, "is new"),
        ({"target_depth": 500}, {}, r"`target_depth` \(`--target_depth`\) is for classifiers"),
        ({"ontology": "blood"}, {}, "`ontology`"),
        ({"head": "full", "model_name_or_path": "folder"}, {"text_config": SIZES}, "text_config"),
    ],
)
def test_settings_without_meaning_are_refused(tmp_path, settings, text, message):
    with pytest.raises(ConfigurationError, match=message):
        tuned(["a.h5ad"], tmp_path, text=text, **settings)


def test_a_model_that_writes_no_text_is_refused_in_a_line(trained, coded, tmp_path):
    with pytest.raises(CheckpointError, match=r"is a `scgpt` model, which writes no text.*`--cell_model`"):
        tuned(trained[0][:1], tmp_path, model_name_or_path=str(coded[1]))


def test_evaluate_scores_a_language_model(trained):
    files, folder, _ = trained
    cells = evaluate(anndata.read_h5ad(files[1]), folder, label_key="cell_type", seen="score", partners=False)
    found = cells.uns["sclm_hf"]["sclm_prediction"]
    assert found["scores"]["accuracy"]["mean"] == pytest.approx(share_right(files[1], folder))
    assert found["n_chose"] == 60


def test_names_of_cells_are_no_labels(trained, tmp_path):
    cells = anndata.read_h5ad(trained[0][0])
    cells.obs["name"] = cells.obs_names
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ConfigurationError, match=r"60 different values in 60 cells"):
        tuned([tmp_path / "cells.h5ad"], tmp_path / "out", label_column="name")


def test_other_settings_ask_for_text():
    with pytest.raises(ConfigurationError, match="--text"):
        TextArguments(n_genes=5)
    with pytest.raises(ConfigurationError, match="give `cell_tokens`"):
        TextArguments(text=True, codebook_size=5)
    with pytest.raises(ConfigurationError, match="leave out `cell_tokens`"):
        TextArguments(text=True, cell_tokens="folder", gene_tokens=True)


@pytest.mark.slow
def test_a_sequence_to_sequence_model_learns_to_name_cells(trained, tmp_path):
    files, _, _ = trained
    tokenizer = word_tokenizer(GENES, LABELS, other_words=["human"])
    sizes = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    ids = {"decoder_start_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(tmp_path / "t5")
    tokenizer.save_pretrained(tmp_path / "t5")
    result = tuned(
        files[:1],
        tmp_path / "out",
        model_name_or_path=str(tmp_path / "t5"),
        eval_files=files[1:],
        text={"n_genes": 12},
        config={"max_steps": 16, "logging_steps": 2},
    )
    losses = losses_of(result)
    assert losses[-1] < 0.5 * losses[0]
    assert share_right(files[1], tmp_path / "out") == pytest.approx(result.metrics["eval_accuracy"], abs=1e-3)


def test_packing_changes_no_loss(trained, tmp_path):
    files, _, _ = trained
    alone, packed = (
        tuned(
            files[:1],
            tmp_path / f"{most}",
            text={"n_genes": 4, "text_config": SIZES, "pack_tokens": most},
            config={"num_train_epochs": 2, "learning_rate": 1e-3},
        )
        for most in (0, 60)
    )
    np.testing.assert_allclose(losses_of(packed), losses_of(alone), rtol=1e-3)


@pytest.fixture(scope="module")
def coded(trained, tmp_path_factory):
    """A language model that reads cells as code words, the folder of its encoder, and the result of its training."""
    files, _, _ = trained
    folder = tmp_path_factory.mktemp("codes")
    encoder = make_tiny_checkpoint("scgpt", folder / "encoder", genes=GENES)
    result = tuned(
        files[:1],
        folder / "out",
        eval_files=files[1:],
        text={"cell_tokens": str(encoder), "n_code_words": 3, "codebook_size": 6, "text_config": SIZES},
        config={"num_train_epochs": 8, "per_device_train_batch_size": 8, "logging_steps": 4},
    )
    return folder / "out", encoder, result


def test_a_language_model_learns_from_code_words(trained, coded):
    (files, _, _), (folder, _, result) = trained, coded
    losses = losses_of(result)
    assert np.mean(losses[-3:]) < 0.5 * losses[0]
    assert share_right(files[1], folder) == pytest.approx(result.metrics["eval_accuracy"], abs=1e-3)


def test_a_file_is_annotated_as_cells_in_memory(trained, coded, tmp_path):
    file = trained[0][1]
    for number, folder in enumerate((trained[1], coded[0])):
        expected = annotate(anndata.read_h5ad(file), folder)
        ((path, _),) = run_files("annotate", file, tmp_path / f"{number}.h5ad", folder)
        found = anndata.read_h5ad(path)
        np.testing.assert_allclose(found.obsm["sclm_probabilities"], expected.obsm["sclm_probabilities"], atol=1e-5)


def test_another_temperature_or_codebook_is_another_model(coded, tmp_path):
    shutil.copytree(coded[0], tmp_path / "model")
    before = model_hash(load_text_annotator(tmp_path / "model").model)
    saved = json.loads((tmp_path / "model" / "candidates.json").read_text())
    (tmp_path / "model" / "candidates.json").write_text(json.dumps(saved | {"temperature": 3.0}))
    warmer = model_hash(load_text_annotator(tmp_path / "model").model)
    codebook = Codebook.load(tmp_path / "model" / "cells")
    (tmp_path / "model" / "cells" / CODEBOOK_FILE).unlink()
    dataclasses.replace(codebook, centroids=codebook.centroids * 2).save(tmp_path / "model" / "cells")
    assert len({before, warmer, model_hash(load_text_annotator(tmp_path / "model").model)}) == 3


def test_what_reads_code_words_is_a_plain_language_model(coded):
    folder, _, _ = coded
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(model) is LlamaForCausalLM and type(model).__module__.startswith("transformers.")
    asked = [{"role": "user", "content": "<cell_0_1> <cell_1_5> <cell_2_0> Which cell type is it?"}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    inputs.pop("token_type_ids", None)
    words = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert {"<cell_0_1>", "<cell_1_5>", "<cell_2_0>"} < set(words)
    answers = model.generate(**inputs, max_new_tokens=2, do_sample=True, num_return_sequences=3)
    assert answers.shape == (3, inputs["input_ids"].shape[1] + 2)


def test_chat_shows_a_model_the_code_words_that_it_learnt(trained, coded):
    (files, _, _), (folder, _, _) = trained, coded
    model = open_chat_model(folder, GENES, device="cpu")
    shown = model.shown(open_source("cells", files[1], expects="any"), np.array([3, 5]), 0)
    assert [[word[:7] for word in one.split()] for one in shown] == [["<cell_0", "<cell_1", "<cell_2"]] * 2
    assert model.introduced(shown[:1], ["c"], "human") == f"Below is a human cell.\n{shown[0]}\n"
    with pytest.raises(ConfigurationError, match="code words"):
        open_chat_model(folder, GENES, n_genes=5)


def test_a_codebook_that_lies_beside_the_encoder_is_used_and_a_lora_learns_its_words(trained, coded, tmp_path):
    (files, _, _), (folder, _, _) = trained, coded
    model, tokenizer = small_language_model([], LABELS, tasks=["annotate_codes"], other_words=["human"])
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    tuned(
        files[:1],
        tmp_path / "out",
        model_name_or_path=str(tmp_path / "base"),
        head="lora",
        lora_r=2,
        text={"cell_tokens": str(folder / "cells")},
        config={"max_steps": 2},
    )
    names = (f"cells/{CODEBOOK_FILE}", "cells/codebook.safetensors")
    assert all((tmp_path / "out" / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert annotate(anndata.read_h5ad(files[1]), tmp_path / "out").obs["sclm_confidence"].notna().all()


@pytest.mark.filterwarnings("ignore:.*taken for one sample")
def test_an_encoder_of_samples_is_refused_batches_that_hold_no_whole_sample(trained, tmp_path):
    files, _, _ = trained
    encoder = make_tiny_checkpoint("cellplm", tmp_path / "encoder", genes=GENES)
    with pytest.raises(ConfigurationError, match=r"the largest has 60 cells.*`--per_device_train_batch_size 60`"):
        tuned(files[:1], tmp_path / "out", text={"cell_tokens": str(encoder)})


def test_a_model_that_lost_its_codebook_annotates_nothing(trained, coded, tmp_path):
    (files, _, _), (folder, _, _) = trained, coded
    shutil.copytree(folder, tmp_path / "model")
    (tmp_path / "model" / "cells" / CODEBOOK_FILE).unlink()
    with pytest.raises(CheckpointError, match="no codebook"):
        annotate(anndata.read_h5ad(files[1]), tmp_path / "model")


def test_an_encoder_for_too_few_cells_is_refused_before_training(trained, coded, tmp_path):
    (files, _, _), (_, encoder, _) = trained, coded
    with pytest.raises(ConfigurationError, match="codebook_size"):
        tuned(
            files[:1],
            tmp_path / "out",
            text={"cell_tokens": str(encoder), "codebook_size": 100},
            config={"max_steps": 1},
        )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_a_lora_learns_with_a_token_per_gene_and_is_merged(trained, tmp_path):
    files, _, _ = trained
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model, tokenizer = small_language_model(["GENE0", "GENE1"], LABELS, other_words=["human"], **sizes)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    result = tuned(
        files[:1],
        tmp_path / "out",
        model_name_or_path=str(tmp_path / "base"),
        head="lora",
        lora_r=2,
        eval_files=files[1:],
        text={"n_genes": 12, "gene_tokens": True},
        config={"max_steps": 8},
    )
    losses = losses_of(result)
    assert np.mean(losses[-3:]) < losses[0]
    assert share_right(files[1], tmp_path / "out") == pytest.approx(result.metrics["eval_accuracy"], abs=1e-3)
    with pytest.raises(CheckpointError, match="merged model"):
        annotate(anndata.read_h5ad(files[1]), tmp_path / "out" / "adapter")
