import numpy as np
import pytest

from sclm_hf import CellCorpus, mix
from sclm_hf.errors import ConfigurationError, CorpusError

TASKS = ["donor", "cell_type"]


def test_each_task_has_its_numbers(folder, processor):
    corpus = CellCorpus(folder, processor, label_column="cell_type", batch_column="donor", task_columns=TASKS)
    assert corpus.task_names == {"donor": corpus.batch_names, "cell_type": corpus.label_names}
    for batch in corpus.loader(16):
        np.testing.assert_array_equal(batch["labels_donor"], batch["batch_labels"])
        np.testing.assert_array_equal(batch["labels_cell_type"], batch["labels"])
    again = CellCorpus(folder, processor, task_columns={"donor": corpus.batch_names[::-1]})
    assert again.task_names == {"donor": corpus.batch_names[::-1]}
    with pytest.raises(CorpusError, match="tissue"):
        CellCorpus(folder, processor, task_columns=["tissue"])


def test_mixtures_have_the_same_tasks(folder, processor):
    one, two = (CellCorpus(folder / f"{name}.h5ad", processor, task_columns=["donor"]) for name in ("one", "two"))
    names = sorted({*one.task_names["donor"], *two.task_names["donor"]})
    both = [CellCorpus(folder / f"{name}.h5ad", processor, task_columns={"donor": names}) for name in ("one", "two")]
    mixture = mix(both)
    assert mixture.task_names == {"donor": names}
    assert all("labels_donor" in batch for batch in mixture.batches(16))
    other = CellCorpus(folder / "two.h5ad", processor)
    with pytest.raises(ConfigurationError, match="same `task_names`"):
        mix([both[0], other])
