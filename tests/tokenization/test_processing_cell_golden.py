"""What `CellProcessor` makes of cells, against scGPT's own preprocessing, tokeniser, collator and batches to embed."""

import numpy as np
import pytest

from sclm_hf import CellProcessor, ExpressionFeatureExtractor, GeneTokenizer

from .golden import csr, load, recorded_uniforms

CASES = pytest.mark.parametrize("case", ["scgpt/preproc_a", "scgpt/preproc_b"])


def processor(pad_id, **overrides):
    """Genes have the ids below `pad_id`; `<cls>` has the one above."""
    vocabulary = {f"GENE{i}": i for i in range(pad_id)} | {"<pad>": pad_id, "<cls>": pad_id + 1}
    extractor = ExpressionFeatureExtractor.for_family("scgpt", **{"expects": "any", **overrides})
    return CellProcessor(extractor, GeneTokenizer.from_genes(vocabulary, special_tokens=("<pad>", "<cls>")))


def rows_as_dicts(ids, values, pad_id):
    return [
        {int(i): float(v) for i, v in zip(*row, strict=True) if i != pad_id} for row in zip(ids, values, strict=True)
    ]


def assert_subset(batch, whole, pad_id, length):
    """Each row holds `length` tokens, or all of a cell that has no more, with the values they have in the cell."""
    parts = rows_as_dicts(batch["input_ids"], batch["expression_values"], pad_id)
    for part, cell in zip(parts, rows_as_dicts(whole["input_ids"], whole["expression_values"], pad_id), strict=True):
        assert len(part) == min(length, len(cell))
        assert part.items() <= cell.items()


@CASES
@pytest.mark.parametrize(
    ("run", "layer"),
    [
        ("default_ft", "X_log1p"),
        ("default_ft", "X_normed"),
        ("int_target", "X_log1p"),
        ("hvg", "X_log1p"),
        ("nonorm_bin", "X"),
    ],
)
def test_preprocessor_layers(case, run, layer):
    golden, meta = load(case)
    facts = meta["preprocessor"][run]
    data = golden["pp__nonorm_bin__X_after"] if layer == "X" else golden[f"pp__{run}__layer_{layer}"]
    matrix = csr(data)
    ours = processor(
        300, n_bins=facts["config"]["binning"], max_length=None, add_cls=False, include_zero_genes=True
    ).encode(
        matrix,
        np.arange(matrix.shape[1]),
        cell_ids=np.arange(matrix.shape[0]),
        uniforms=recorded_uniforms(facts["np_seed_before_call"], matrix.nnz),
    )
    np.testing.assert_array_equal(ours["expression_values"], golden[f"pp__{run}__layer_X_binned"])


@CASES
@pytest.mark.parametrize("name", ["nozero", "allgenes", "sampled", "nocls"])
def test_tokenised_and_padded(case, name):
    golden, meta = load(case)
    facts = meta["tokenize"][name]
    layer, gene_ids = csr(golden["pp__default_ft__layer_X_log1p"]), golden["tok__gene_ids"]
    pad_id = {"scgpt/preproc_a": 150, "scgpt/preproc_b": 200}[case]
    parameters = {
        "cls_value": 0.0,
        "add_cls": facts["append_cls"],
        "include_zero_genes": facts["include_zero_gene"],
        "max_length": facts["max_len"],
    }
    arguments = {
        "cell_ids": np.arange(layer.shape[0]),
        "uniforms": recorded_uniforms(meta["preprocessor"]["default_ft"]["np_seed_before_call"], layer.nnz),
    }
    ours = processor(pad_id, **parameters).encode(layer, gene_ids, **arguments)
    whole = processor(pad_id, **{**parameters, "max_length": None}).encode(layer, gene_ids, **arguments)
    theirs = {"input_ids": golden[f"tok__{name}__genes"], "expression_values": golden[f"tok__{name}__values"]}
    assert ours["input_ids"].shape == theirs["input_ids"].shape
    np.testing.assert_array_equal(ours["attention_mask"], theirs["input_ids"] != pad_id)
    assert_subset(theirs, whole, pad_id, facts["max_len"])
    if whole["input_ids"].shape[1] <= facts["max_len"]:
        np.testing.assert_array_equal(ours["input_ids"], theirs["input_ids"])
        np.testing.assert_array_equal(ours["expression_values"], theirs["expression_values"])
    else:
        assert_subset(ours, whole, pad_id, facts["max_len"])


@CASES
@pytest.mark.parametrize("name", ["mask_trunc", "sample", "nobin_nomask", "keep0"])
def test_collated(case, name):
    golden, meta = load(case)
    facts = meta["collator"][name]
    matrix = csr(golden["col__raw_rows"])
    pad_id = matrix.shape[1]
    parameters = {
        "encoding": "bins" if facts.get("do_binning", True) else "continuous",
        "truncation": "sample" if facts["sampling"] else "head",
        "max_length": facts["max_length"],
    }
    arguments = {"cell_ids": np.arange(matrix.shape[0])}
    if parameters["encoding"] == "bins":
        arguments["uniforms"] = recorded_uniforms(facts["seed_np_and_torch"], matrix.nnz)
    gene_ids = np.arange(matrix.shape[1])
    ours = processor(pad_id, **parameters).encode(matrix, gene_ids, **arguments)
    whole = processor(pad_id, **{**parameters, "max_length": None}).encode(matrix, gene_ids, **arguments)
    theirs = {"input_ids": golden[f"col__{name}__gene"], "expression_values": golden[f"col__{name}__expr"]}
    assert ours["input_ids"].shape == theirs["input_ids"].shape
    assert_subset(theirs, whole, pad_id, facts["max_length"])
    assert_subset(ours, whole, pad_id, facts["max_length"])
    if not facts["sampling"]:
        np.testing.assert_array_equal(ours["input_ids"], theirs["input_ids"])
        np.testing.assert_array_equal(ours["expression_values"], theirs["expression_values"])
    elif facts.get("keep_first_n_tokens", 1):
        assert (ours["input_ids"][:, 0] == pad_id + 1).all()


@CASES
@pytest.mark.parametrize("name", ["cont", "ints", "sampled"])
def test_batches_to_embed(case, name):
    golden, meta = load(case)
    facts, data = meta["embed_data"][name], golden[f"emb__{name}__X"]
    ours = processor(60, max_length=facts["max_length"])
    whole = processor(60, max_length=None)
    gene_ids = ours.map_genes(golden["emb__gene_names"].tolist()).gene_ids
    known = csr(data[:, gene_ids >= 0])
    uniforms = np.zeros(data.shape)
    uniforms[:, gene_ids >= 0] = filled(known, recorded_uniforms(facts["np_and_torch_seed_before_call"], known.nnz))
    matrix = csr(data)
    arguments = {"cell_ids": np.arange(len(data)), "uniforms": uniforms[matrix.nonzero()]}
    size = meta["embed_data"]["batch_size"]
    for number in range(3):
        rows = np.arange(number * size, min((number + 1) * size, len(data)))
        arguments["cell_ids"] = rows
        theirs = {
            "input_ids": golden[f"emb__{name}__batch{number}_gene"],
            "expression_values": golden[f"emb__{name}__batch{number}_expr"],
        }
        batch = ours.encode(matrix, gene_ids, rows=rows, **arguments)
        assert batch["input_ids"].shape == theirs["input_ids"].shape
        assert_subset(theirs, whole.encode(matrix, gene_ids, rows=rows, **arguments), 60, facts["max_length"])
        if name != "sampled":
            np.testing.assert_array_equal(batch["input_ids"], theirs["input_ids"])
            np.testing.assert_array_equal(batch["expression_values"], theirs["expression_values"])


def filled(matrix, values):
    """`values` at the stored places of a matrix, as a dense array."""
    matrix = matrix.copy()
    matrix.data = values
    return matrix.toarray()
