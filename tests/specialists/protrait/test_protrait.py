"""PROTRAIT: the numbers of the original, DNA of peaks, training, verbs, and what it refuses."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from anndata import AnnData
from torch.testing import assert_close

import sclm_hf
from sclm_hf.adapters.lora import add_lora, save_adapter
from sclm_hf.errors import ConfigurationError
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.opening.weights import open_model
from sclm_hf.specialists.peaks import Peak
from sclm_hf.specialists.protrait.configuration_protrait import PROTRAITConfig
from sclm_hf.specialists.protrait.genome_protrait import read_windows
from sclm_hf.specialists.protrait.modeling_protrait import PROTRAITModel
from sclm_hf.specialists.protrait.processing_protrait import PROTRAITProcessor

from ..common import SpecialistTester, close, golden_arrays, open_golden

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "pool_sizes": [3, 2], "bottleneck_size": 8}
MOTIFS = ("TGACTCAT", "GGGACTTT", "CACGTGAC")


@pytest.mark.parametrize("case", ["case_a", "case_b"])
def test_numbers_of_the_original(case, tmp_path):
    recorded = golden_arrays("protrait", case)
    model = open_golden("protrait", case, tmp_path)
    seen = {}
    for number, layer in enumerate(model.layers, start=1):
        keys = torch.from_numpy(recorded[f"sampled_keys_{number}"].astype(np.int64))
        layer.sampled_keys = lambda length, keys=keys: keys
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.update(embedding_out=output))
    model.layers[0].register_forward_hook(lambda module, inputs, output: seen.update(encoder_layer_1_out=output))
    ids = torch.from_numpy(recorded["base_ids"].astype(np.int64))
    with torch.no_grad():
        output = model(ids, labels=torch.from_numpy(recorded["labels"]))
    for name, found in seen.items():
        if name in recorded:
            close(found, recorded[name])
    close(output.peak_embedding, recorded["peak_embedding"])
    close(output.logits.sigmoid(), recorded["prob"])
    assert output.loss.item() == pytest.approx(float(recorded["bce"]), rel=5e-5)


def planted(folder: Path, n_cells: int = 30, n_peaks: int = 90) -> tuple[AnnData, Path]:
    """Cells of three types, whose peaks hold the type's motif, and a genome of them."""
    random = np.random.default_rng(0)
    genome = random.choice(list("ACGT"), 200 * n_peaks + 200)
    names, kinds = [], np.arange(n_peaks) % 3
    for peak, kind in enumerate(kinds):
        start = 200 * (peak + 1)
        names.append(f"chr1:{start - 40}-{start + 40}")
        for place in (-20, 0, 20):
            genome[start + place : start + place + 8] = list(MOTIFS[kind])
    file = folder / "genome.fa"
    lines = ["".join(genome[at : at + 60]) for at in range(0, len(genome), 60)]
    file.write_text("\n".join([">chr0 nothing", "ACGTN", ">chr1 planted", *lines, ""]))
    types = np.arange(n_cells) % 3
    share = 0.05 + 0.6 * (types[:, None] == kinds)
    cells = AnnData((random.random((n_cells, n_peaks)) < share).astype(np.float32))
    cells.obs_names, cells.var_names = [f"cell{row}" for row in range(n_cells)], names
    cells.obs["cell_type"] = [f"type {number}" for number in types]
    return cells, file


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("genome"))[1]


class TestPROTRAIT(SpecialistTester):
    name = "protrait"
    model_config = SMALL
    training = {"num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 3e-3}

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _genome(cls, genome):
        cls.settings = {"genome": genome, "label_key": "cell_type", "sequence_length": 96}
        cls.folder = genome.parent

    def cells(self):
        return planted(self.folder)[0]

    def processor_arguments(self):
        return list(self.cells().var_names), {"genome": self.settings["genome"]}

    def test_an_adapter_moves_the_cells(self, fitted, tmp_path):
        adapted = add_lora(open_model(str(fitted[0]), "AutoModel"), r=2)
        adapted.get_base_model().cells.weight.data.add_(torch.linspace(0, 1, SMALL["bottleneck_size"]))
        save_adapter(adapted, tmp_path, processor=load_specialist(fitted[0]).processor)
        found = [sclm_hf.embed(self.cells(), str(one)).obsm["X_protrait"] for one in (fitted[0], tmp_path)]
        np.testing.assert_allclose(found[1] - found[0], np.broadcast_to(np.linspace(0, 1, 8), (30, 8)), atol=1e-6)


@pytest.mark.slow
def test_it_learns_the_types_of_cells_that_have_no_label(tmp_path):
    cells, file = planted(tmp_path)
    truth = cells.obs["cell_type"].to_numpy()
    cells.obs["cell_type"] = np.where(np.arange(30) < 15, truth, None)
    training = {"num_train_epochs": 25, "learning_rate": 3e-3, "per_device_train_batch_size": 16, "use_cpu": True}
    sclm_hf.fit(
        "protrait",
        cells,
        tmp_path / "model",
        genome=file,
        label_key="cell_type",
        sequence_length=96,
        model_config=SMALL,
        training=training,
    )
    unlabelled = cells[15:].copy()
    found = sclm_hf.annotate(unlabelled, str(tmp_path / "model"))
    assert (found.obs["sclm_prediction"].astype(str) == truth[15:]).mean() > 0.9
    embedded = sclm_hf.embed(unlabelled, str(tmp_path / "model"))
    whole = sclm_hf.embed(cells, str(tmp_path / "model"))
    assert np.array_equal(embedded.obsm["X_protrait"], whole.obsm["X_protrait"][15:])
    unlabelled.obs_names = [f"new {name}" for name in unlabelled.obs_names]
    with pytest.raises(ConfigurationError, match="15 of 15 are others, such as 'new cell15'"):
        sclm_hf.embed(unlabelled, str(tmp_path / "model"))


def test_keys_are_the_same_in_every_call_unless_told_otherwise():
    torch.manual_seed(0)
    ids = torch.randint(5, (2, 96))
    model = PROTRAITModel(PROTRAITConfig(num_cells=3, sequence_length=96, **SMALL)).eval()
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert_close(model(ids).logits[1:], model(ids[1:]).logits)
    assert torch.equal(model.layers[0].sampled_keys(96), model.layers[0].sampled_keys(96))
    assert not torch.equal(model.layers[0].sampled_keys(96)[:32, :8], model.layers[1].sampled_keys(32))
    model.config.deterministic_sampling = False
    assert not torch.equal(model.layers[0].sampled_keys(96), model.layers[0].sampled_keys(96))


@pytest.mark.parametrize(("length", "flattened"), [(600, 432), (1000, 720), (1344, 1008), (131072, 720)])
def test_sizes_of_the_original_follow_from_the_length(length, flattened):
    assert PROTRAITConfig(sequence_length=length).flattened_size == flattened


def test_sequences_too_short_for_the_layers_are_refused():
    with pytest.raises(Exception, match="each layer needs at least `sparse_factor`"):
        PROTRAITConfig(sequence_length=100)


@pytest.mark.parametrize("is_zipped", [False, True])
def test_bases_around_the_middle_of_peaks(tmp_path, is_zipped):
    text = ">chr2 some words\nACGT\nacgtn\n\n>chr1\nGGGG\n"
    file = tmp_path / ("genome.fa.gz" if is_zipped else "genome.fa")
    file.write_bytes(gzip.compress(text.encode()) if is_zipped else text.encode())
    windows = read_windows(file, [Peak("chr2", 2, 6), Peak("chr1", 0, 2), Peak("chr2", 5, 9)], 4)
    assert windows.tolist() == [[2, 3, 0, 1], [4, 2, 2, 2], [1, 2, 3, 4]]


def test_packed_genomes_that_unpack_to_far_more_are_refused(tmp_path):
    file = tmp_path / "genome.fa.gz"
    file.write_bytes(gzip.compress(b">chr1\n" + b"A" * 2**22))
    with pytest.raises(ConfigurationError, match="more than 100 times its size"):
        read_windows(file, [Peak("chr1", 0, 2)], 4)


def test_genomes_that_do_not_fit_are_refused(tmp_path):
    cells, file = planted(tmp_path)

    def fit(cells=cells, **settings):
        given = {"genome": file, "sequence_length": 96, "model_config": SMALL} | settings
        return sclm_hf.fit("protrait", cells, tmp_path / "x", **given)

    with pytest.raises(ConfigurationError, match="name the genome that they were called in"):
        fit(genome=None)
    with pytest.raises(ConfigurationError, match="There is no genome"):
        fit(genome=tmp_path / "absent.fa")
    other = tmp_path / "other.fa"
    for text, message in {
        ">chr7\nACGT\n": "lacks 1 of the 1 chromosomes of the peaks, such as 'chr1' of chr1:160-240; it has chr7",
        ">chr1\nACGT\n": "The peak chr1:160-240 ends beyond its chromosome, which has 4 bases",
        ">chr1\nAC?T\n": "'chr1' in the genome .* holds '.', which stands for no base",
        "ACGT\n": "is no FASTA file",
        "": "is empty",
        ">chr1\n>chr1\n": "ends beyond its chromosome, which has 0 bases",
    }.items():
        other.write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            fit(genome=other)
    zipped = tmp_path / "cut.fa.gz"
    zipped.write_bytes(gzip.compress(file.read_bytes())[:-20])
    with pytest.raises(ConfigurationError, match="cannot be read"):
        fit(genome=zipped)
    twice = cells.copy()
    twice.obs_names = ["one"] * twice.n_obs
    with pytest.raises(ConfigurationError, match="Cells have the same name"):
        fit(twice)
    with pytest.raises(ConfigurationError, match="each layer needs at least"):
        fit(sequence_length=9)


def test_an_empty_label_is_none(tmp_path):
    cells, file = planted(tmp_path)
    cells.obs["cell_type"] = ["", None, *cells.obs["cell_type"][2:]]
    processor = PROTRAITProcessor.fit(cells, genome=file, label_key="cell_type", sequence_length=96)
    assert processor.labels == ["type 0", "type 1", "type 2"] and processor.label_of[:3] == [-1, -1, 2]


def test_labels_are_asked_for(tmp_path):
    cells, file = planted(tmp_path)
    training = {"num_train_epochs": 1, "use_cpu": True}
    settings = {"genome": file, "sequence_length": 96, "model_config": SMALL, "training": training}
    sclm_hf.fit("protrait", cells, tmp_path / "model", **settings)
    with pytest.raises(ConfigurationError, match="was trained without labels"):
        sclm_hf.annotate(cells, str(tmp_path / "model"))
    others = cells.copy()
    others.var_names = [*cells.var_names[:5], "chr9:1-2", *cells.var_names[6:]]
    with pytest.raises(
        ConfigurationError, match=f"1 of its 90 peaks are not among theirs, such as '{cells.var_names[5]}'"
    ):
        sclm_hf.embed(others, str(tmp_path / "model"))
    with pytest.raises(ConfigurationError, match="'absent' is no column of `obs`"):
        sclm_hf.fit("protrait", cells, tmp_path / "x", label_key="absent", **settings)
