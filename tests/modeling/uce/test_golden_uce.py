"""Every number of the original UCE, reproduced through the converter and `from_pretrained`.

Tolerance: 1e-5 absolute; sentences and masks are equal bit by bit. Of the recorded files only `state_dict_shapes.json`
is not compared: the converter takes every tensor of `model.torch` strictly.
"""

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor

from sclm_hf.modeling.uce.processing_uce import published_filter

from .golden_uce import CASES, convert_case, recorded, settings

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def arrays(case):
    return recorded(case)


@pytest.fixture(scope="module")
def converted(case, tmp_path_factory):
    return convert_case(case, tmp_path_factory.mktemp(case))


@pytest.fixture(scope="module")
def processor(converted):
    return AutoProcessor.from_pretrained(converted)


@pytest.fixture(params=["eager", "sdpa"])
def model(converted, request):
    return AutoModelForPreTraining.from_pretrained(converted, attn_implementation=request.param).eval()


def batch(arrays, number, rows=slice(None)):
    mask = torch.from_numpy(arrays[f"b{number}.mask"]).long()
    return {"input_ids": torch.from_numpy(arrays[f"b{number}.sentences"])[rows], "attention_mask": mask[rows]}


def tensor(array):
    """A recorded tensor; the original puts tokens before cells."""
    tensor = torch.from_numpy(array)
    return tensor.transpose(0, 1) if tensor.ndim == 3 else tensor


def n_batches(arrays):
    return sum(name.endswith(".sentences") for name in arrays)


def test_every_recorded_array_is_known(arrays):
    layers = {f"b0.layer_{number}" for number in range(3)}
    tested = {"raw_x", "raw_var", "proc_obs", "proc_var", "proc_x", "gene_token_idx", "gene_chrom_code", "gene_start"}
    tested |= {
        "numpy_seed",
        "X_uce",
        "b0.normalized_tokens",
        "b0.encoder",
        "b0.pos_encoder",
        "b0.gene_output",
    } | layers
    tested |= {"b0.predict_gene_idx", "b0.predict", "b0.predict_normalized", "b0.shortest_cell"}
    tested |= {"b0.shortest_cell_unpadded_embedding", "b0.embedding_if_bool_mask"}
    tested |= {f"b{number}.{what}" for number in range(n_batches(arrays)) for what in ("sentences", "mask")}
    assert set(arrays) <= tested


def test_filter(arrays, processor):
    kept = published_filter(arrays["raw_x"])
    np.testing.assert_array_equal(np.flatnonzero(kept.cells), [int(name[1:]) for name in arrays["proc_obs"]])
    used = kept.genes & (processor.map_genes(list(arrays["raw_var"])).gene_ids >= 0)
    np.testing.assert_array_equal(arrays["raw_var"][used], arrays["proc_var"])
    np.testing.assert_array_equal(arrays["raw_x"][kept.cells][:, used], arrays["proc_x"])


def test_genes(case, arrays, processor):
    mapping = processor.map_genes(list(arrays["proc_var"]))
    np.testing.assert_array_equal(mapping.gene_ids, arrays["gene_token_idx"])
    genome = processor._genome
    codes = genome.chromosomes[mapping.gene_ids] - settings(case)["CHROM_TOKEN_OFFSET"]
    np.testing.assert_array_equal(codes, arrays["gene_chrom_code"])
    places = processor.feature_extractor.gene_places["human"]
    starts = [places[name.upper()][1] for name in arrays["proc_var"]]
    np.testing.assert_array_equal(starts, arrays["gene_start"])


def test_sentences_bit_by_bit(case, arrays, processor):
    """From counts, with the stream of the recorded seed: one cell after the other, through all batches."""
    random_state = np.random.RandomState(int(arrays["numpy_seed"].item()))
    gene_ids, size = processor.map_genes(list(arrays["proc_var"])).gene_ids, settings(case)["batch_size"]
    for number in range(n_batches(arrays)):
        cells = arrays["proc_x"][number * size : (number + 1) * size]
        encoded = processor.encode(cells, gene_ids, cell_ids=np.arange(len(cells)), random_state=random_state)
        np.testing.assert_array_equal(encoded["input_ids"], arrays[f"b{number}.sentences"])
        np.testing.assert_array_equal(encoded["attention_mask"], arrays[f"b{number}.mask"])


def test_embeddings(converted, arrays):
    model = AutoModel.from_pretrained(converted).eval()
    found = torch.cat([model(**batch(arrays, number)).cell_embedding for number in range(n_batches(arrays))])
    assert_close(found, tensor(arrays["X_uce"]), **TOLERANCE)


def test_states(model, arrays):
    given, base = batch(arrays, 0), model.model
    proteins = torch.nn.functional.normalize(base.embeddings.genes(given["input_ids"]), dim=-1)
    assert_close(proteins, tensor(arrays["b0.normalized_tokens"]), **TOLERANCE)
    encoded = base(**given, output_hidden_states=True)
    assert_close(encoded.gene_embeddings, tensor(arrays["b0.encoder"]), **TOLERANCE)
    first, *layers = encoded.hidden_states
    assert_close(first, tensor(arrays["b0.pos_encoder"]), **TOLERANCE)
    for number, layer in enumerate(layers):
        expected = tensor(arrays[f"b0.layer_{number}"])
        # states of layers reach 3 to 4, and what processors differ by grows with the largest number of a sum
        scale = max(1.0, float(expected.abs().max()))
        assert_close(layer, expected, atol=TOLERANCE["atol"] * scale, rtol=TOLERANCE["rtol"])
    assert f"b0.layer_{len(layers)}" not in arrays
    # the decoder runs on every token there, and on the first alone in `forward`
    assert_close(base.decoder(encoded.last_hidden_state), tensor(arrays["b0.gene_output"]), **TOLERANCE)


@pytest.mark.parametrize(("name", "normalized"), [("predict", False), ("predict_normalized", True)])
def test_expression(model, arrays, name, normalized):
    model.config.normalize_queried_genes = normalized
    query_ids = tensor(arrays["b0.predict_gene_idx"]).unsqueeze(1)
    assert_close(model(**batch(arrays, 0), query_ids=query_ids).logits, tensor(arrays[f"b0.{name}"]), **TOLERANCE)


def test_masked_padding_equals_the_original_at_batch_size_one(model, arrays):
    given, shortest = batch(arrays, 0), int(arrays["b0.shortest_cell"].item())
    alone = batch(arrays, 0, slice(shortest, shortest + 1))
    alone = {name: values[:, : int(alone["attention_mask"].sum())] for name, values in alone.items()}
    unpadded = tensor(arrays["b0.shortest_cell_unpadded_embedding"])
    assert_close(model(**alone).cell_embedding, unpadded, **TOLERANCE)
    model.config.padding_is_additive = False
    masked = model(**given).cell_embedding
    assert_close(masked, tensor(arrays["b0.embedding_if_bool_mask"]), **TOLERANCE)
    assert_close(masked[shortest : shortest + 1], unpadded, **TOLERANCE)
    assert (masked - tensor(arrays["X_uce"])[: len(masked)]).abs().max() > 0.01
