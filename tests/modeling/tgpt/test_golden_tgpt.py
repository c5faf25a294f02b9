"""Every number of the original tGPT, reproduced through the converter and `from_pretrained`.

Tolerances: 1e-5 absolute, losses 1e-5, norms of gradients 1e-4 relative; the original ran with transformers 4.30.
"""

import gzip
import json

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, GPT2LMHeadModel

from sclm_hf import TGPTForCausalLM, TGPTModel, embed
from sclm_hf.errors import ExpressionError, GeneCoverageError
from sclm_hf.objectives.next_gene import NextGeneCollator

from .golden_tgpt import CASES, convert_case, golden_arrays, golden_gradient_norms, golden_lines, source_folder

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
EMPTY = 3
"""Where the recorded cells have one without genes."""


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def arrays(case):
    return golden_arrays(case)


@pytest.fixture(scope="module")
def converted(case, tmp_path_factory):
    return convert_case(case, tmp_path_factory.mktemp(case))


@pytest.fixture(scope="module")
def processor(converted):
    return AutoProcessor.from_pretrained(converted)


@pytest.fixture(params=["eager", "sdpa"])
def attention(request):
    return request.param


def with_genes(arrays):
    """Recorded cells that have genes."""
    return torch.arange(len(arrays["input_ids"])) != EMPTY


def inputs(arrays, cells):
    return {name: arrays[name][cells] for name in ("input_ids", "attention_mask", "token_type_ids")}


@pytest.mark.parametrize("source", ["converted", "as released"])
def test_hidden_states_and_embeddings(case, converted, arrays, attention, source):
    if source == "converted":
        model = AutoModel.from_pretrained(converted, attn_implementation=attention).eval()
    else:
        model = TGPTModel.from_pretrained(source_folder(case), attn_implementation=attention).eval()
    assert type(model) is TGPTModel
    cells = with_genes(arrays)
    output = model(**inputs(arrays, cells), output_hidden_states=True)
    real = arrays["attention_mask"][cells].bool()
    recorded = [arrays[f"hidden_{number}"][cells] for number in range(model.config.n_layer + 1)]
    assert f"hidden_{len(recorded)}" not in arrays
    for ours, theirs in zip(output.hidden_states, recorded, strict=True):
        assert_close(ours[real], theirs[real], **TOLERANCE)
    assert_close(output.cell_embedding, arrays["features"][cells], **TOLERANCE)


def test_a_cell_without_genes_is_nan_in_the_original_and_refused_here(converted, arrays):
    assert arrays["features"][EMPTY].isnan().all() and not arrays["features"][with_genes(arrays)].isnan().any()
    model = AutoModel.from_pretrained(converted).eval()
    with pytest.raises(ExpressionError, match="without genes"):
        model(**inputs(arrays, slice(EMPTY, EMPTY + 1)))
    # its hidden states are recorded as well
    states = model(**inputs(arrays, slice(EMPTY, EMPTY + 1)), use_cache=True, output_hidden_states=True).hidden_states
    for number, ours in enumerate(states):
        assert_close(ours[0, :2], arrays[f"hidden_{number}"][EMPTY, :2], **TOLERANCE)


def test_embeddings_without_token_types(converted, arrays):
    model = AutoModel.from_pretrained(converted, embed_token_types=False).eval()
    cells = with_genes(arrays)
    output = model(**inputs(arrays, cells))
    assert_close(output.cell_embedding, arrays["features_without_token_type"][cells], **TOLERANCE)
    assert arrays["features_without_token_type"][EMPTY].isnan().all()


def test_logits_of_next_genes(converted, arrays, attention):
    model = AutoModelForCausalLM.from_pretrained(converted, attn_implementation=attention).eval()
    assert type(model) is TGPTForCausalLM
    # with a cache nothing is pooled, so the cell without genes passes
    logits = model(**inputs(arrays, slice(0, 4)), use_cache=True).logits
    real = arrays["attention_mask"][:4].bool()
    assert_close(logits[real], arrays["logits_first4"][real], **TOLERANCE)


def training_batch(arrays):
    ids = arrays["train_input_ids"]
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def test_training_batch(processor, arrays):
    batch = training_batch(arrays) | {"cell_ids": torch.arange(len(arrays["train_input_ids"]))}
    ours = NextGeneCollator.from_processor(processor)(batch)
    assert "cell_ids" not in ours
    # the original keeps `</b>` as a label, which no prediction is compared with
    assert (arrays["train_labels"][:, 0] == 1).all() and (ours["labels"][:, 0] == -100).all()
    assert torch.equal(ours["labels"][:, 1:], arrays["train_labels"][:, 1:])
    # the original has an axis more, which GPT-2 flattens
    assert arrays["train_batch_shape"].tolist() == [len(ours["labels"]), 1, ours["labels"].shape[1]]


@pytest.mark.parametrize("token_types", [True, False])
def test_training_loss(converted, arrays, token_types):
    model = AutoModelForCausalLM.from_pretrained(converted, embed_token_types=token_types).eval()
    loss = model(**training_batch(arrays), labels=arrays["train_labels"]).loss
    name = "train_loss_eval" if token_types else "train_loss_eval_without_token_type"
    assert_close(loss, arrays[name], **TOLERANCE)
    targets = (arrays["train_labels"][:, 1:] != -100).sum()
    divided = model(**training_batch(arrays), labels=arrays["train_labels"], num_items_in_batch=targets).loss
    assert_close(divided, loss)


def test_gradient_norms(case, converted, arrays):
    dropouts = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    model = AutoModelForCausalLM.from_pretrained(converted, **dropouts).train()
    model(**training_batch(arrays), labels=arrays["train_labels"]).loss.backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert norms == pytest.approx(golden_gradient_norms(case), rel=1e-4, abs=0)


def test_stock_class_with_our_processor(converted, processor, arrays):
    model = GPT2LMHeadModel.from_pretrained(converted).transformer.eval()
    lines = [golden_lines("case_a", "lines_clean")[0]]
    batch = processor.tokenizer(lines, return_tensors="pt")
    ours = TGPTModel.from_pretrained(converted).eval()(**batch).last_hidden_state
    assert_close(model(**batch).last_hidden_state, ours, **TOLERANCE)


def test_lines_of_ranked_genes(case, processor, arrays):
    """Of lines with genes that are not in the vocabulary, which the original makes `<unk>`, see below."""
    raw, clean = golden_lines(case, "lines_raw"), golden_lines(case, "lines_clean")
    known = [i for i, line in enumerate(clean) if set(line.split()) <= processor.tokenizer.get_vocab().keys()]
    assert len(known) == len(clean) - 1
    for lines in (raw, clean):
        batch = processor.tokenizer(
            [lines[i] for i in known], max_length=64, truncation=True, padding="max_length", return_tensors="pt"
        )
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            assert torch.equal(batch[name], arrays[name][known]), name


def test_training_lines_of_ranked_genes(case, processor, arrays):
    lines = (source_folder(case).parent / "train_lines.txt").read_text().splitlines()
    vocabulary = processor.tokenizer.get_vocab()
    known = [i for i, line in enumerate(lines) if set(line.split()) <= vocabulary.keys()]
    # the other one has `HLA-B`, which the original splits into three unknown words in training
    assert len(known) == len(lines) - 1
    batch = processor.tokenizer(
        [lines[i] for i in known], max_length=64, truncation=True, padding="max_length", return_tensors="pt"
    )
    assert torch.equal(batch["input_ids"], arrays["train_input_ids"][known])


def test_unknown_genes_are_named(case, processor, arrays):
    line = golden_lines(case, "lines_raw")[1]
    with pytest.raises(GeneCoverageError, match=r"`NOTAGENE1`, `AC000_1`, `Gapdh`\."):
        processor.tokenizer(line)
    # without them, the line is the recorded one without its `<unk>`
    unknown = {"NOTAGENE1", "AC000.1", "Gapdh"}
    kept = " ".join(word for word in line.split() if word not in unknown)
    recorded = arrays["input_ids"][1][arrays["attention_mask"][1].bool()]
    assert processor.tokenizer(kept)["input_ids"] == recorded[recorded != 3].tolist()


def cells_of_lines(lines: list[str]) -> AnnData:
    """Expression that ranks as the lines, with names as databases write them."""
    names = sorted({word for line in lines for word in line.split()})
    counts = np.zeros((len(lines), len(names)))
    for row, line in enumerate(lines):
        genes = list(dict.fromkeys(line.split()))
        counts[row, [names.index(gene) for gene in genes]] = np.arange(len(genes), 0, -1)
    cells = AnnData(csr_matrix(counts))
    cells.var_names = [name.replace("HLA_", "HLA-") for name in names]
    return cells


def test_cells_are_encoded_and_embedded_as_recorded(case, converted, processor, arrays):
    lines = golden_lines(case, "lines_clean")
    vocabulary = processor.tokenizer.get_vocab()
    chosen = [i for i, line in enumerate(lines) if line and set(line.split()) <= vocabulary.keys()]
    cells = cells_of_lines([lines[i] for i in chosen])
    batch = processor(cells, return_tensors="pt")
    width = batch["input_ids"].shape[1]
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], arrays[name][chosen, :width]), name
    embedded = embed(cells, str(converted), batch_size=3, device="cpu")
    assert_close(torch.from_numpy(embedded.obsm["X_tgpt"]), arrays["features"][chosen], **TOLERANCE)


def test_the_case_is_whole(case, arrays):
    """The other recorded files say what the arrays say."""
    folder = source_folder(case).parent
    with gzip.open(folder / "rankings.txt.gz", "rt") as file:
        lines = [line.rstrip("\n") for line in file]
    assert lines == golden_lines(case, "lines_raw")
    assert [line.replace("-", "_").replace(".", "_") for line in lines] == golden_lines(case, "lines_clean")
    shapes = json.loads((folder / "state_dict_shapes.json").read_text())
    model = TGPTForCausalLM.from_pretrained(source_folder(case))
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    legacy = {name for name in shapes if name.endswith((".attn.bias", ".attn.masked_bias"))}
    assert ours == {name: shape for name, shape in shapes.items() if name not in legacy}
    genes = (folder / "gene_list.txt").read_text().split()
    assert set(genes) <= AutoProcessor.from_pretrained(source_folder(case)).get_vocab().keys()
