"""Every number of the original scFoundation, reproduced through the converter and `from_pretrained`.

Tolerance: 1e-5 absolute (the recorded runs agree among themselves to 2e-6). Of the recorded arrays only `embfile/*`
are not compared: names of files that the original's script writes.
"""

import json

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification, AutoProcessor

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, embed
from sclm_hf.modeling.common.attention import softmax_kernel
from sclm_hf.modeling.scfoundation.convert_scfoundation import WEIGHT_MAP
from sclm_hf.objectives.read_depth import ReadDepthCollator
from sclm_hf.tokenization.encodings.keys import Stream

from .golden_scfoundation import FOLDER, convert_case, golden_arrays, golden_names

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module", params=["case_a", "case_b"])
def case(request):
    return request.param


@pytest.fixture(scope="module")
def arrays(case):
    return golden_arrays(case)


@pytest.fixture(scope="module")
def converted(case, tmp_path_factory):
    return convert_case(case, tmp_path_factory.mktemp(case))


@pytest.fixture(params=["eager", "sdpa"])
def model(converted, request):
    folder = converted / "gene"
    return AutoModelForPreTraining.from_pretrained(folder, attn_implementation=request.param).eval()


def inputs(arrays, prefix="in/"):
    return {
        "input_ids": arrays[f"{prefix}encoder_position_gene_ids"],
        "expression_values": arrays[f"{prefix}x"],
        "attention_mask": (~arrays[f"{prefix}padding_label"]).long(),
    }


def capture(model, inputs, modules):
    """What modules return: name -> output, or output of its first element."""
    seen = {}
    for name, module in modules.items():
        module.register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output[0] if isinstance(output, tuple) else output})
        )
    with torch.no_grad():
        output = model(**inputs)
    return seen, output


def test_value_embedding(model, arrays):
    values = model.model.embeddings.values
    assert_close(values(arrays["batch_values"]), arrays["token_emb_out"], **TOLERANCE)
    assert_close(values.bin_weights(arrays["batch_values"]), arrays["bin_weights"], **TOLERANCE)
    assert_close(values(arrays["special_values"]), arrays["special_emb"], **TOLERANCE)


def test_encoder(model, arrays):
    batch = inputs(arrays)
    real = batch["attention_mask"].bool()
    layers = {f"h/enc_layer_{number}": layer for number, layer in enumerate(model.model.layers)}
    seen, _ = capture(model, batch, layers)
    encoded = model.model(**batch, output_hidden_states=True)
    assert_close(encoded.hidden_states[0], arrays["h/enc_input"], **TOLERANCE)
    assert len(seen) == model.config.num_hidden_layers
    for name, hidden_state in seen.items():
        assert_close(hidden_state[real], arrays[name][real], **TOLERANCE)
    for recorded in ("h/enc_output", "fast/enc_output"):
        assert_close(encoded.last_hidden_state[real], arrays[recorded][real], **TOLERANCE)


def test_decoder(model, arrays):
    decoder = model.decoder
    modules = {"dec_input": decoder.projection, "dec_output": decoder.norm, "final_norm": decoder.final_norm}
    for number, layer in enumerate(decoder.layers):
        modules |= {f"dec_attn_branch_{number}": layer.self_attn, f"layer_{number}": layer}
    batch = inputs(arrays)
    seen, _ = capture(model, batch, modules)
    for name in ("dec_input", "dec_output", "final_norm"):
        assert_close(seen[name], arrays[f"h/{name}"], **TOLERANCE)
    hidden_states = seen["dec_input"]
    for number in range(model.config.num_decoder_layers):
        attended = seen[f"dec_attn_branch_{number}"]
        assert_close(attended, arrays[f"h/dec_attn_branch_{number}"], **TOLERANCE)
        assert_close(hidden_states + attended, arrays[f"h/dec_after_attn_{number}"], **TOLERANCE)
        forward = seen[f"layer_{number}"] - hidden_states - attended
        assert_close(forward, arrays[f"h/dec_ff_branch_{number}"], **TOLERANCE)
        hidden_states = seen[f"layer_{number}"]
    assert_close(hidden_states, arrays["h/dec_performer_out"], **TOLERANCE)

    encoded = model.model(**batch).last_hidden_state
    scattered = model.scatter(encoded, batch["input_ids"], batch["attention_mask"], None)
    assert_close(scattered, arrays["h/dec_embed_input"], **TOLERANCE)


def test_random_features_of_the_decoder(model, arrays):
    layer = model.decoder.layers[0]
    attention, tokens = layer.self_attn, layer.norm1(arrays["h/dec_input"])
    for is_query, projection, recorded in ((True, attention.q_proj, "q"), (False, attention.k_proj, "k")):
        heads = attention.heads(projection(tokens))
        features = softmax_kernel(heads, attention.features.projection, is_query=is_query)
        assert_close(features[0, 0], arrays[f"h/dec_l0_{recorded}_prime_b0h0"], **TOLERANCE)


def every_prediction(model, batch):
    """The prediction for the genes, `<T>` and `<S>`; the model itself returns that for the genes."""
    encoded = model.model(batch["input_ids"], batch["expression_values"], batch["attention_mask"])
    placed = (batch["input_ids"], batch["attention_mask"], batch.get("decoder_expression_values"))
    decoded = model.decoder(model.scatter(encoded.last_hidden_state, *placed))
    return model.expression_head(decoded).squeeze(-1)


def test_predictions(model, arrays):
    batch = inputs(arrays)
    genes = model.config.num_genes
    with torch.no_grad():
        output, everything = model(**batch), every_prediction(model, batch)
    for recorded in ("pred", "pred_fast", "pred_fp64"):
        assert_close(everything, arrays[recorded].float(), **TOLERANCE)
        assert_close(output.expression_prediction, arrays[recorded][:, :genes].float(), **TOLERANCE)
    assert_close(output.gene_hidden_state, arrays["h/final_norm"][:, :genes], **TOLERANCE)
    # what the decoder is told of the encoder's own tokens is not looked at
    told = model(**batch, decoder_expression_values=arrays["batch_values"])
    assert_close(told.expression_prediction, output.expression_prediction)


def test_cells_by_themselves(model, arrays, case):
    """The deterministic alternative gives a whole batch what the original gives each cell alone."""
    batch = inputs(arrays)
    with torch.no_grad():
        alone = [
            every_prediction(model, {k: v[row : row + 1] for k, v in batch.items()})
            for row in range(len(batch["input_ids"]))
        ]
        assert_close(torch.cat(alone), arrays["pred_each_alone"], **TOLERANCE)
        together = every_prediction(model, batch)
        model.config.key_maximum = "sequence"
        assert_close(every_prediction(model, batch), arrays["pred_each_alone"], **TOLERANCE)
    if case == "case_a":  # the other case's keys are too alike to tell
        assert (together - arrays["pred_each_alone"]).abs().max() > 1e-3


def test_tokens(converted, case, arrays):
    """Packing: values, ids and padding of the recorded batch."""
    processor = processor_for(converted / "gene", expects="normalized", target_depth="t4")
    values, genes = arrays["batch_values"].numpy(), len(golden_names(case))
    matrix = sp.csr_matrix(values[:, :genes].astype(np.float64))
    totals = 10.0 ** values[:, -1].astype(np.float64)
    batch = processor.encode(matrix, np.arange(genes), cell_ids=np.arange(len(values)), totals=totals, check=False)
    assert np.array_equal(batch["input_ids"], arrays["in/encoder_position_gene_ids"])
    assert np.array_equal(batch["attention_mask"] == 0, arrays["in/padding_label"])
    assert_close(torch.from_numpy(batch["expression_values"]), arrays["in/x"], atol=1e-6, rtol=1e-6)
    seen = np.zeros_like(values, dtype=bool)
    for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["attention_mask"], strict=True)):
        seen[row, ids[mask == 1]] = True
    assert np.array_equal(seen, arrays["in/encoder_labels"])


def masked_batch(arrays, model):
    mask, genes = arrays["mae/mask"], model.config.num_genes
    labels = torch.where(mask, arrays["batch_values"], -100.0)[:, :genes]
    return inputs(arrays, "mae/") | {"decoder_expression_values": arrays["mae/decoder_data"], "labels": labels}


def test_masked_batch_is_what_was_recorded(arrays):
    unmasked = (arrays["batch_values"] > 0) & ~arrays["mae/mask"]
    assert torch.equal(unmasked, arrays["mae/encoder_labels"])
    rows = torch.arange(len(unmasked))[:, None].expand_as(arrays["mae/x"])
    batch = inputs(arrays, "mae/")
    real = batch["attention_mask"].bool()
    seen = torch.zeros_like(unmasked)
    seen[rows[real], batch["input_ids"][real]] = True
    assert torch.equal(seen, arrays["mae/encoder_labels"])


class RecordedMask(ReadDepthCollator):
    """Draws the genes of a recorded mask."""

    def draws(self, batch, epoch, *streams):
        halves = torch.full(self.mask.shape, 0.5)
        given = [1.0 - self.mask.double() if stream == Stream.MASK else halves for stream in streams]
        return super().draws(batch, epoch)._replace(given=torch.stack(given).double().numpy())


def test_collator_hides_as_recorded(converted, arrays):
    """All but the value of `<T>`: a cell that is not made shallower is asked for at its own depth."""
    processor, genes = AutoProcessor.from_pretrained(converted / "gene"), arrays["mae/mask"].shape[1] - 2
    settings = {"thin_ratio": 0.0, "value_ratio": 0.5, "zero_ratio": 0.5, "replace_ratio": 1.0, "random_ratio": 0.0}
    collator = RecordedMask.from_processor(processor, **settings)
    collator.mask = arrays["mae/mask"][:, :genes]
    batch = collator(inputs(arrays) | {"cell_ids": torch.arange(len(collator.mask))})
    assert torch.equal(batch["input_ids"], arrays["mae/encoder_position_gene_ids"])
    assert torch.equal(batch["attention_mask"] == 0, arrays["mae/padding_label"])
    depth = batch["input_ids"] == genes
    seen = batch["expression_values"].masked_fill(depth, 0)
    assert_close(seen, arrays["mae/x"].masked_fill(depth, 0), **TOLERANCE)
    target = [genes]
    told, recorded = batch["decoder_expression_values"].clone(), arrays["mae/decoder_data"].clone()
    told[:, target] = recorded[:, target] = 0
    assert_close(told, recorded, **TOLERANCE)
    expected = arrays["batch_values"][:, :genes].masked_fill(~collator.mask, -100)
    assert_close(batch["labels"], expected, **TOLERANCE)


def test_masked_expression(model, arrays, case):
    batch = masked_batch(arrays, model)
    assert_close(every_prediction(model, batch), arrays["mae/pred"], **TOLERANCE)
    loss = model(**batch).loss
    assert_close(loss.double(), arrays["mae/loss"], atol=1e-5, rtol=1e-6)
    loss.backward()
    gradients = original_gradients(model)
    with np.load(FOLDER / case / "io.npz") as recorded:
        names, norms = recorded["mae/grad_names"].tolist(), recorded["mae/grad_norms"]
    assert sorted(names) == sorted(gradients)
    for name, norm in zip(names, norms, strict=True):
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4, abs=1e-9), name
    full = [name for name in arrays if name.startswith("mae/grad/")]
    assert len(full) == 5
    for name in full:
        assert_close(gradients[name.removeprefix("mae/grad/")], arrays[name], atol=1e-5, rtol=1e-4)


def original_gradients(model):
    """Gradients under the original's names."""
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {}
    for original, target in WEIGHT_MAP.items():
        targets = (target,) if isinstance(target, str) else target
        for numbers in [(i,) for i in range(9)] + [(i, j) for i in range(9) for j in range(3)]:
            if original.count("{}") == len(numbers) or (numbers == (0,) and "{}" not in original):
                names = [name.format(*numbers) for name in targets]
                if all(name in ours for name in names):
                    found[original.format(*numbers)] = torch.cat([ours[name] for name in names])
    return found


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_published_classifier(converted, case, arrays, implementation):
    """The original's fine-tuning: no depth tokens, padding pooled and placed on gene 103."""
    model = AutoModelForSequenceClassification.from_pretrained(
        converted / "gene", num_labels=10, attn_implementation=implementation
    ).eval()
    names = {"fc1.0.": "linear1.", "fc1.2.": "linear2.", "norm.": "norm."}
    probe = torch.load(FOLDER / case / "linear_probe.pt", weights_only=True)
    renamed = {
        f"{ours}{name.removeprefix(theirs)}": tensor
        for name, tensor in probe.items()
        for theirs, ours in names.items()
        if name.startswith(theirs)
    }
    model.classifier.load_state_dict(renamed)

    matrix = sp.csr_matrix(arrays["probe/x"].numpy().astype(np.float64))
    extractor = ExpressionFeatureExtractor(encoding="continuous", expects="any", add_cls=False, pad_value=103.0)
    processor = CellProcessor(extractor, AutoProcessor.from_pretrained(converted / "gene").tokenizer)
    cells = {"cell_ids": np.arange(matrix.shape[0]), "check": False}
    batch = processor.encode(matrix, np.arange(matrix.shape[1]), **cells)
    batch = {name: torch.from_numpy(array) for name, array in batch.items()}
    with torch.no_grad():
        for recorded in ("probe/logits_eval", "probe/logits_eval_fastpath"):
            assert_close(model(**batch).logits, arrays[recorded], **TOLERANCE)
        model.classifier.norm.train()
        assert_close(model(**batch).logits, arrays["probe/logits_bn_train"], atol=1e-4, rtol=1e-4)

    model.freeze_as_published()
    with np.load(FOLDER / case / "io.npz") as recorded:
        trainable = recorded["probe/trainable"].tolist()
    layer = model.config.num_hidden_layers - 2
    moving = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {ours for name in trainable for ours in our_names(name)}
    assert moving == expected
    assert any(f"layers.{layer}." in name for name in moving)


def our_names(original):
    if original.startswith("fc1."):
        return [original.replace("fc1.0.", "classifier.linear1.").replace("fc1.2.", "classifier.linear2.")]
    parts = original.split(".")
    numbers, pattern = [parts[2]], f"encoder.transformer_encoder.{{}}.{'.'.join(parts[3:])}"
    if pattern not in WEIGHT_MAP:
        numbers.append(parts[3][-1])
        pattern = f"encoder.transformer_encoder.{{}}.{parts[3][:-1]}{{}}.{parts[4]}"
    target = WEIGHT_MAP[pattern]
    return [name.format(*numbers) for name in ((target,) if isinstance(target, str) else target)]


def processor_for(folder, **changes):
    processor = AutoProcessor.from_pretrained(folder)
    extractor = ExpressionFeatureExtractor.for_family("scfoundation", **changes)
    return CellProcessor(extractor, processor.tokenizer)


RUNS = [
    "cell_all_t4_F",
    "cell_max_f1_F",
    "cell_all_a5_F_rde",
    "cell_all_f2_T",
    "cell_all_f1_A",
    "gene_f1_F",
    "gene_batch_f1_A",
    "gene_expression_t4_F",
    "bulk_all_F",
    "bulk_max_T",
    "cell_all_t4_F_h5ad_sparse_subset",
]


def script_arguments(case, run):
    settings = json.loads((FOLDER / case / "config.json").read_text())["script_runs"]
    assert sorted(settings) == sorted(RUNS)
    flags = settings[run]["args"]
    return settings[run]["data"], dict(zip(flags[::2], flags[1::2], strict=True))


def script_cells(case, arrays, data, flags):
    """Matrix, names of genes, totals and settings of the encoding that say what the script's arguments say."""
    names, totals = golden_names(case), None
    settings = {"target_depth": flags["--tgthighres"]}
    matrix = arrays["h5ad_X" if data == "h5ad" else data].numpy()
    if data == "h5ad":
        with np.load(FOLDER / case / "io.npz") as recorded:
            names = recorded["h5ad_genes"].tolist()
    if flags["--pre_normalized"] != "F":
        settings["expects"] = "normalized"
    if flags["--pre_normalized"] == "A":
        matrix, totals = matrix[:, :-1], matrix[:, -1]
    if flags.get("--input_type") == "bulk":
        settings["expects"] = "normalized"
        if flags["--pre_normalized"] == "F":
            depth = matrix.astype(np.float32).sum(1, keepdims=True)
            matrix, settings["target_depth"] = np.log1p(matrix / depth * np.median(depth)), "f1"
        else:
            settings["target_depth"] = "sum"
    return sp.csr_matrix(matrix), names, totals, settings


@pytest.mark.parametrize("run", RUNS)
def test_published_procedure(converted, case, arrays, run):
    """The outputs of the original's embedding script, end to end from its input files."""
    data, flags = script_arguments(case, run)
    matrix, names, totals, settings = script_cells(case, arrays, data, flags)
    output_type = flags["--output_type"]
    checkpoint = {"ce": "cell", "rde": "rde"}.get(flags.get("--version"), "gene")
    processor = processor_for(converted / checkpoint, **settings)
    mapping = processor.map_genes(names)
    batch = processor.encode(matrix, mapping.gene_ids, cell_ids=np.arange(matrix.shape[0]), totals=totals, check=False)
    batch = {name: torch.from_numpy(array) for name, array in batch.items()}
    if output_type == "cell":
        pooling = {"pooling": flags["--pool_type"], "cell_embedding_size": None}
        model = AutoModel.from_pretrained(converted / checkpoint, **pooling).eval()
        result = model(**batch).cell_embedding
    else:
        model = AutoModelForPreTraining.from_pretrained(converted / checkpoint).eval()
        model.config.key_maximum = "batch" if output_type == "gene_batch" else "sequence"
        output = model(**batch)
        result = output.expression_prediction if output_type == "gene_expression" else output.gene_hidden_state
    assert_close(result, arrays[f"emb/{run}"], **TOLERANCE)


@pytest.mark.parametrize("source", ["counts_csv", "h5ad_X"])
def test_embed_gives_the_published_embedding(converted, case, arrays, source):
    """From AnnData, with nothing set: what the original's script gives each cell with its own defaults."""
    run, names = "cell_all_t4_F", golden_names(case)
    if source == "h5ad_X":
        run += "_h5ad_sparse_subset"
        with np.load(FOLDER / case / "io.npz") as recorded:
            names = recorded["h5ad_genes"].tolist()
    cells = anndata.AnnData(sp.csr_matrix(arrays[source].numpy().astype(np.float32)))
    cells.var_names = names
    embedded = embed(cells, converted / "cell", batch_size=2, device="cpu").obsm["X_scfoundation"]
    assert_close(torch.from_numpy(embedded), arrays[f"emb/{run}"].float(), **TOLERANCE)
