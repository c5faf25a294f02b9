"""Every number of the original iSEEEK, reproduced through the converter and `from_pretrained`.

Tolerances: 1e-5 absolute, losses 1e-5; the original ran with transformers 4.30.
"""

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForMaskedLM, AutoProcessor, BertModel

from sclm_hf import ISEEEKForMaskedLM, ISEEEKModel, embed
from sclm_hf.objectives.masked_genes import MaskedGenesCollator
from sclm_hf.tokenization.encodings.masks import Draws, mask_genes

from .golden_iseeek import CASES, convert_case, golden_arrays, golden_lines, source_folder

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


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


def inputs(arrays, cells=slice(None)):
    return {name: arrays[name][cells] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("source", ["converted", "as released"])
def test_hidden_states_and_embeddings(case, converted, arrays, attention, source):
    if source == "converted":
        model = AutoModel.from_pretrained(converted, attn_implementation=attention).eval()
    else:
        model = ISEEEKModel.from_pretrained(source_folder(case), attn_implementation=attention).eval()
    assert type(model) is ISEEEKModel
    output = model(**inputs(arrays), output_hidden_states=True)
    real = arrays["attention_mask"].bool()
    recorded = [arrays[f"hidden_{number}"] for number in range(model.config.num_hidden_layers + 1)]
    assert f"hidden_{len(recorded)}" not in arrays
    for ours, theirs in zip(output.hidden_states, recorded, strict=True):
        assert_close(ours[real], theirs[real], **TOLERANCE)
    assert_close(output.cell_embedding, arrays["features"], **TOLERANCE)


def test_masked_genes(converted, arrays, attention):
    model = AutoModelForMaskedLM.from_pretrained(converted, attn_implementation=attention).eval()
    assert type(model) is ISEEEKForMaskedLM
    output = model(arrays["masked_input_ids"], arrays["attention_mask"], labels=arrays["labels"])
    assert_close(output.loss, arrays["mlm_loss"], **TOLERANCE)
    real = arrays["attention_mask"][:2].bool()
    assert_close(output.logits[:2][real], arrays["mlm_logits_first2"][real], **TOLERANCE)


def test_masks_follow_the_recorded_draws(processor, arrays):
    """The uniforms are made from what was recorded: they must lead back to it, special tokens never touched."""
    collator = MaskedGenesCollator.from_processor(processor)
    assert (collator.mask_ratio, collator.replace_ratio, collator.random_ratio) == (0.15, 0.8, 0.5)
    batch = {name: tensor.numpy() for name, tensor in inputs(arrays).items()}
    ids, masked, labels = batch["input_ids"], arrays["masked_input_ids"].numpy(), arrays["labels"].numpy()
    chosen = labels != -100
    assert (labels[chosen] == ids[chosen]).all()
    maskable = collator.maskable(batch)
    assert not (chosen & ~maskable).any()
    replaced = chosen & (masked == collator.mask_token_id)
    changed = chosen & ~replaced & (masked != ids)
    draws = [np.where(where, 0.0, 0.999) for where in (chosen, replaced, changed)]
    draws.append((masked + 0.5) / collator.vocab_size)
    ours, our_labels = mask_genes(
        ids,
        maskable,
        Draws(np.zeros(len(ids), np.uint64), np.stack(draws)),
        np.full(len(ids), 0.15),
        hidden_ratio=0.8,
        changed_ratio=0.5,
        mask_id=collator.mask_token_id,
        n_tokens=collator.vocab_size,
    )
    assert (ours == masked).all() and (our_labels == labels).all()


def test_stock_class_with_our_processor(case, converted, processor):
    batch = processor.tokenizer([golden_lines(case)[0]], return_tensors="pt")
    stock = BertModel.from_pretrained(converted).eval()(**batch).last_hidden_state
    assert_close(ISEEEKModel.from_pretrained(converted).eval()(**batch).last_hidden_state, stock, **TOLERANCE)


def known_lines(case, processor):
    """Numbers of the lines whose genes the vocabulary has; of others, the original makes `[UNK]`."""
    lines = golden_lines(case)
    vocabulary = processor.tokenizer.get_vocab()
    known = [i for i, line in enumerate(lines) if set(line.replace("-", "_").split()) <= vocabulary.keys()]
    assert len(known) == len(lines) - 1
    return lines, known


def test_lines_of_ranked_genes(case, processor, arrays):
    lines, known = known_lines(case, processor)
    batch = processor.tokenizer([lines[i] for i in known], max_length=128, truncation=True, padding=True)
    width = len(batch["input_ids"][0])
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(torch.tensor(batch[name]), arrays[name][known, :width]), name


def test_cells_are_encoded_and_embedded_as_recorded(case, converted, processor, arrays):
    lines, known = known_lines(case, processor)
    known = [i for i in known if lines[i]]
    names = sorted({word for i in known for word in lines[i].split()})
    counts = np.zeros((len(known), len(names)))
    for row, i in enumerate(known):
        genes = lines[i].split()
        counts[row, [names.index(gene) for gene in genes]] = np.arange(len(genes), 0, -1)
    cells = AnnData(csr_matrix(counts))
    cells.var_names = [name.replace("HLA_", "HLA-") for name in names]
    batch = processor(cells, return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask"]
    width = batch["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"], arrays["input_ids"][known, :width])
    embedded = embed(cells, str(converted), batch_size=3, device="cpu")
    assert_close(torch.from_numpy(embedded.obsm["X_iseeek"]), arrays["features"][known], **TOLERANCE)
