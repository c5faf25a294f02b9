import anndata as ad
import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel
from typer.testing import CliRunner

from sclm_hf.cli.main import make_app
from sclm_hf.errors import CheckpointError, ConfigurationError

from ..dual_encoders import TEXTS, tiny_dual_encoder
from ..training.h5ad_files import write_h5ad

pytest.importorskip("sentence_transformers")

from sentence_transformers import SentenceTransformer

from sclm_hf.hub.sentence_transformers import cells_of, open_sentence_transformer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dual")
    model, processor = tiny_dual_encoder(folder)
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    result = CliRunner().invoke(
        make_app(), ["export", "sentence-transformers", str(folder / "model"), str(folder / "exported")]
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.mark.slow
def test_the_exported_folder_encodes_texts_and_cells_as_the_dual_encoder_does(place, tmp_path):
    cells = ad.read_h5ad(write_h5ad(tmp_path / "cells.h5ad", 5))
    encoder = SentenceTransformer(str(place / "exported"), trust_remote_code=True, device="cpu")
    texts = encoder.encode(list(TEXTS.values()), convert_to_tensor=True)
    model, processor = encoder[0].encoder, encoder[0].processor
    with torch.no_grad():
        expected = model(**processor(cells, list(TEXTS.values()), return_tensors="pt"))
    assert_close(texts, expected.text_embedding)
    encoded = encoder.encode(list(cells_of(cells)), batch_size=2, convert_to_tensor=True)
    assert_close(encoded, expected.cell_embedding, atol=1e-5, rtol=1e-5)
    assert_close(encoder.similarity(encoded, texts), encoded @ texts.T)


def test_a_cell_is_encoded_alike_in_any_batch(place, tmp_path):
    cells = list(cells_of(ad.read_h5ad(write_h5ad(tmp_path / "cells.h5ad", 7))))
    encoder = open_sentence_transformer(place / "model", device="cpu")
    together, backwards = encoder.encode(cells), encoder.encode(cells[::-1], batch_size=2)[::-1]
    np.testing.assert_allclose(together, backwards, atol=1e-5)


def test_auto_model_opens_the_exported_folder(place):
    exported, original = (AutoModel.from_pretrained(place / name).state_dict() for name in ("exported", "model"))
    assert all(torch.equal(exported[name], tensor) for name, tensor in original.items())


def test_what_cannot_be_encoded_is_refused(place):
    encoder = open_sentence_transformer(place / "model", device="cpu")
    with pytest.raises(ConfigurationError, match="no other kinds of input"):
        encoder.encode(["a text", {"GENE0": 3.0}])
    with pytest.raises(CheckpointError, match="is a `scgpt` model"):
        open_sentence_transformer(place / "cells")
