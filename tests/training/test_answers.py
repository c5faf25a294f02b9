import numpy as np
import pytest
from scipy.special import softmax
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.text.candidates import fit_temperature
from sclm_hf.text.cell_words import sentence_processor
from sclm_hf.training.answers import answers_in_order, log_loss
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.counts import labels_in_order

from .h5ad_files import GENES, write_h5ad


class Lengths(nn.Module):
    """Says of each cell how many of its genes are read."""

    def forward(self, attention_mask, **_):
        return SequenceClassifierOutput(logits=attention_mask.sum(dim=1, keepdim=True).float())


def test_the_log_loss_of_a_cell_is_that_at_the_temperature_of_others():
    labels = np.arange(40) % 2
    scores = np.random.default_rng(0).normal(size=(40, 2))
    own = -np.log(softmax(scores / fit_temperature(scores, labels), axis=1)[np.arange(40), labels]).mean()
    assert log_loss(scores, labels) > own
    assert log_loss(scores[:1], labels[:1]) == pytest.approx(-np.log(softmax(scores[0])[0]))


def test_answers_stand_in_the_order_of_the_baselines(tmp_path):
    files = [write_h5ad(tmp_path / f"{seed}.h5ad", 20, seed=seed) for seed in range(2)]
    corpus = CellCorpus(files, sentence_processor(GENES, 40), label_column="cell_type", seed=3)
    scores, labels = answers_in_order(Lengths(), corpus, TrainingConfig(str(tmp_path), use_cpu=True))
    np.testing.assert_array_equal(labels, labels_in_order(corpus))
    rows = [np.diff(corpus.opened(index).read(np.arange(20)).indptr) for index in range(2)]
    np.testing.assert_array_equal(scores[:, 0], np.concatenate(rows))
