"""From files to a pre-trained model to an annotating one, as the CLI and the scripts do it."""

import json
import logging

import anndata as ad
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoProcessor

from sclm_hf.adapters.lora import add_lora, load_adapter, save_adapter
from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.corpora.order.splits import hold_out
from sclm_hf.corpora.training_manifest import TRAINED, read_manifest
from sclm_hf.errors import CheckpointError, ConfigurationError, CorpusError, SclmWarning
from sclm_hf.training.arguments import TrainingConfig
from sclm_hf.training.callbacks import LossLog
from sclm_hf.training.data import gene_names, open_corpora
from sclm_hf.training.finetune import check_labels, finetune, with_defaults
from sclm_hf.training.pretrain import create_collator, create_model, create_processor, pretrain
from sclm_hf.training.settings.data import DataArguments
from sclm_hf.training.settings.finetune import FinetuneArguments
from sclm_hf.training.settings.pretrain import PretrainArguments

from .h5ad_files import GENES, LABELS, write_h5ad

TINY = json.dumps(
    {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "hidden_dropout_prob": 0,
    }
)


def config(folder, **settings):
    defaults = {"output_dir": str(folder), "per_device_train_batch_size": 16, "learning_rate": 3e-3, "use_cpu": True}
    return TrainingConfig(**(defaults | settings))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    # the second file lacks some genes and has others
    others = GENES[5:] + [f"OTHER{i}" for i in range(3)]
    return [str(write_h5ad(folder / "a.h5ad", 60)), str(write_h5ad(folder / "b.h5ad", 60, seed=1, genes=others))]


@pytest.fixture(scope="module")
def pretrained(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "pretrained"
    arguments = PretrainArguments(model_config=TINY, encoding='{"n_bins": 11}', second_pass_after=5)
    result = pretrain(DataArguments(files, eval_share=0.2), arguments, config(folder, num_train_epochs=5))
    return folder, result


def test_pretraining_learns_and_leaves_a_whole_folder(pretrained):
    folder, result = pretrained
    evaluations = [record["eval_loss"] for record in result.history if "eval_loss" in record]
    assert len(evaluations) == 5 and evaluations[-1] < evaluations[0]
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder)
    assert processor.feature_extractor.n_bins == 11 == model.config.num_bins
    assert set(GENES) | {"OTHER2"} <= set(processor.tokenizer.gene_vocabulary)
    assert model.get_input_embeddings().num_embeddings == processor.tokenizer.gene_vocabulary.size == 46
    assert "Evaluation of the saved weights: loss" in result.summary()


def test_a_manifest_beside_the_weights_names_all_cells_seen(pretrained, files, tmp_path):
    before = read_manifest(str(pretrained[0]))
    arguments = FinetuneArguments(str(pretrained[0]), "cell_type", partners=False)
    held_out = DataArguments(files, eval_share=0.5)
    finetune(held_out, arguments, config(tmp_path / "tuned", max_steps=1, save_merged=False))
    after = read_manifest(str(tmp_path / "tuned"))
    # the others chose the checkpoint
    assert 80 < len(before.part(TRAINED)) < 110 and len(before) == 120 and set(before.datasets) == {"a", "b"}
    assert len(after) >= len(before) and after.holds("x", before.cells, before.counts).all()
    assert len(read_manifest(str(tmp_path / "tuned" / "adapter"))) == len(after)


def test_what_is_left_out_is_enough_to_learn_from_few_cells():
    few, many = range(60), range(32 * 300)
    found = with_defaults(TrainingConfig(), few, FinetuneArguments("model", "cell_type"))
    assert (found.max_steps, found.eval_steps, found.learning_rate) == (300, 30, 1e-3)
    found = with_defaults(TrainingConfig(), many, FinetuneArguments("model", "cell_type", head="full"))
    assert (found.max_steps, found.num_train_epochs, found.eval_steps, found.learning_rate) == (0, 1, 0, 1e-4)
    told = TrainingConfig(num_train_epochs=2, learning_rate=1e-5)
    assert with_defaults(told, few, FinetuneArguments("model", "cell_type")) == told


@pytest.mark.slow
def test_lora_finetuning_annotates(pretrained, files, tmp_path):
    arguments = FinetuneArguments(str(pretrained[0]), "cell_type", partners=False)
    settings = config(
        tmp_path / "out",
        num_train_epochs=30,
        learning_rate=1e-2,
        metric_for_best_model="macro_f1",
    )
    # of the cells that it was trained on: what it knows of others hangs on which are held out
    result = finetune(DataArguments(files, eval_files=files), arguments, settings)
    assert result.metrics["eval_loss"] < 0.8 * np.log(3)
    scores = [record["eval_macro_f1"] for record in result.history if "eval_macro_f1" in record]
    assert result.metrics["eval_macro_f1"] == max(scores) > scores[0]
    for model in (
        load_adapter(tmp_path / "out" / "adapter").get_base_model(),
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "out"),
    ):
        assert tuple(model.config.id2label.values()) == LABELS
    encoded = [AutoProcessor.from_pretrained(tmp_path / place).to_dict() for place in ("out", "out/adapter")]
    assert encoded[0] == encoded[1]


def test_full_finetuning_moves_all_layers(pretrained, files, tmp_path):
    arguments = FinetuneArguments(str(pretrained[0]), "cell_type", head="full", partners=False)
    finetune(DataArguments(files[:1], eval_files=files[1:]), arguments, config(tmp_path, max_steps=2))
    before, after = (AutoModel.from_pretrained(place).state_dict() for place in (pretrained[0], tmp_path))
    assert not torch.equal(before["layers.0.linear1.weight"], after["layers.0.linear1.weight"])
    assert not (tmp_path / "adapter").exists()


def test_workers_do_not_change_a_run(files, tmp_path):
    runs = []
    for workers in (0, 2):
        arguments = PretrainArguments(model_config=TINY, objective="masked", mask_ratio=[0.4])
        settings = config(tmp_path / str(workers), max_steps=4, logging_steps=1, dataloader_num_workers=workers)
        history = pretrain(DataArguments(files), arguments, settings).history
        runs.append([record["loss"] for record in history])
    assert runs[0] == runs[1] and len(runs[0]) == 4


def test_a_run_goes_on_exactly_from_files(files, tmp_path, monkeypatch):
    data, arguments = DataArguments(files), PretrainArguments(model_config=TINY)
    whole = pretrain(data, arguments, config(tmp_path / "whole", num_train_epochs=2, logging_steps=1))
    part = config(tmp_path / "part", num_train_epochs=2, logging_steps=1, save_steps=3)
    append = LossLog.append

    class Stop(Exception):
        pass

    def append_and_stop(log, record):
        append(log, record)
        if record["step"] == 11:
            raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(LossLog, "append", append_and_stop)
        pretrain(data, arguments, part)
    part.resume_from_checkpoint = "last"
    resumed = pretrain(data, arguments, part)
    assert [r["loss"] for r in resumed.history] == [r["loss"] for r in whole.history]


def test_held_out_cells_are_disjoint_and_belong_to_their_source(files):
    processor = create_processor(DataArguments(files), PretrainArguments())
    corpus, held_out = open_corpora(DataArguments(files, eval_share=0.25), processor, label_column="cell_type")
    ids = [np.concatenate([b["cell_ids"] for b in part.batches(64)]) for part in (corpus, held_out)]
    assert len(corpus) + len(held_out) == 120 == len(np.unique(np.concatenate(ids)))
    assert corpus.label_names == held_out.label_names == list(LABELS)
    alone = hold_out({"a": 1000}, 0.25)["a"]
    assert 0.2 < alone.mean() < 0.3
    np.testing.assert_array_equal(alone, hold_out({"b": 7, "a": 1000}, 0.25)["a"])
    assert not np.array_equal(alone, hold_out({"b": 1000}, 0.25)["b"])


def test_labels_that_cannot_be_learnt_are_refused_before_training(pretrained, files, tmp_path):
    def attempt(train_files, column="cell_type", **data):
        arguments = FinetuneArguments(str(pretrained[0]), column)
        return finetune(DataArguments([*map(str, train_files)], **data), arguments, config(tmp_path / "out"))

    with pytest.raises(CorpusError, match=r"a\.h5ad.*celltype.*cell_type"):
        attempt(files[:1], "celltype")
    write_h5ad(tmp_path / "one.h5ad", 30, labels=(1,))
    with pytest.raises(ConfigurationError, match=r"same label in `obs\['cell_type'\]`, 'NK cell'"):
        attempt([tmp_path / "one.h5ad"])
    write_h5ad(tmp_path / "two.h5ad", 30, labels=(0, 1))
    with pytest.raises(CorpusError, match=r"a\.h5ad.*\['T cell'\], not among the 2 names"):
        attempt([tmp_path / "two.h5ad"], eval_files=files[:1])
    assert not (tmp_path / "out").exists()


def test_labels_that_are_only_held_out_are_named(files, tmp_path):
    processor = create_processor(DataArguments(files), PretrainArguments())
    write_h5ad(tmp_path / "two.h5ad", 30, labels=(0, 1))
    corpus = CellCorpus(tmp_path / "two.h5ad", processor, label_column="cell_type", label_names=LABELS)
    with pytest.warns(SclmWarning, match="label 'T cell' of"):
        check_labels(corpus, FinetuneArguments("model", "cell_type"))


def test_cells_without_a_label_are_refused_or_left_out_and_counted(files, tmp_path, caplog):
    cells = ad.read_h5ad(files[0])
    cells.obs["cell_type"] = [None, "", "NA", *cells.obs["cell_type"].astype(str)[3:]]
    cells.write_h5ad(tmp_path / "some.h5ad")
    data = DataArguments([str(tmp_path / "some.h5ad")], eval_share=0.3)
    processor = create_processor(data, PretrainArguments())
    with pytest.raises(CorpusError, match="--unlabelled drop"):
        open_corpora(data, processor, label_column="cell_type")
    logging.getLogger("sclm_hf").addHandler(caplog.handler)
    corpus, held_out = open_corpora(data, processor, label_column="cell_type", unlabelled="drop")
    logging.getLogger("sclm_hf").removeHandler(caplog.handler)
    assert len(corpus) + len(held_out) == 57 and corpus.label_names == list(LABELS)
    assert "3 of 60 cells have no label and are left out: 3 of some" in caplog.text
    with pytest.raises(ConfigurationError, match="refuse or drop, got 'keep'"):
        FinetuneArguments("model", "cell_type", unlabelled="keep")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("barcode", r"`obs\['barcode'\]` holds 60 different values in 60 cells, for example 'cell0'.*at least 2"),
        ("score", r"`obs\['score'\]` holds 30 different numbers in 60 cells.*at least 10"),
    ],
)
def test_names_of_cells_and_measurements_are_no_labels(files, tmp_path, column, message):
    cells = ad.read_h5ad(files[0])
    cells.obs["barcode"] = [f"cell{number}" for number in range(60)]
    cells.obs["score"], cells.obs["cluster"] = np.arange(60) // 2 / 7, np.arange(60) // 12
    cells.write_h5ad(tmp_path / "cells.h5ad")
    processor = create_processor(DataArguments(files), PretrainArguments())
    corpus = CellCorpus(tmp_path / "cells.h5ad", processor, label_column=column)
    with pytest.raises(ConfigurationError, match=message):
        check_labels(corpus, FinetuneArguments("model", column))
    clusters = CellCorpus(tmp_path / "cells.h5ad", processor, label_column="cluster")
    check_labels(clusters, FinetuneArguments("model", "cluster"))


def test_training_does_not_start_from_an_adapter(pretrained, files, tmp_path):
    adapter = tmp_path / "adapter"
    save_adapter(
        add_lora(AutoModel.from_pretrained(pretrained[0])),
        adapter,
        processor=AutoProcessor.from_pretrained(pretrained[0]),
    )
    data, settings = DataArguments(files), config(tmp_path / "out", max_steps=1)
    with pytest.raises(CheckpointError, match=r"adapter` holds an adapter.*the merged model"):
        finetune(data, FinetuneArguments(str(adapter), "cell_type"), settings)
    with pytest.raises(CheckpointError, match=r"adapter` holds an adapter.*the merged model"):
        pretrain(data, PretrainArguments(model_name_or_path=str(adapter)), settings)
    assert not (tmp_path / "out").exists()


def test_training_does_not_write_over_a_model_or_a_file(pretrained, files, tmp_path):
    released = tmp_path / "released"
    AutoModel.from_pretrained(pretrained[0]).save_pretrained(released)
    AutoProcessor.from_pretrained(pretrained[0]).save_pretrained(released)
    before = {path.name: path.read_bytes() for path in released.iterdir()}
    arguments = FinetuneArguments(str(released), "cell_type", partners=False)
    with pytest.raises(ConfigurationError, match=r"released holds a model, which this run would replace"):
        finetune(DataArguments(files), arguments, config(released, max_steps=1))
    with pytest.raises(ConfigurationError, match=r"a\.h5ad is a file: name a folder"):
        finetune(DataArguments(files), arguments, config(files[0], max_steps=1))
    assert {path.name: path.read_bytes() for path in released.iterdir()} == before


def test_unknown_model_settings_and_folders_without_model_are_refused(files, tmp_path):
    data = DataArguments(files)
    processor = create_processor(data, PretrainArguments())
    with pytest.raises(ConfigurationError, match=r"hidden_siz`.*Did you mean `hidden_size`"):
        create_model(PretrainArguments(model_config='{"hidden_siz": 3}'), processor)
    with pytest.raises(ConfigurationError, match="JSON"):
        create_model(PretrainArguments(model_config="hidden_size=3"), processor)
    for folder, told in ((tmp_path, "holds no processor"), (tmp_path / "absent", "does not exist")):
        with pytest.raises(CheckpointError, match=told):
            finetune(data, FinetuneArguments(str(folder), "cell_type"), config(tmp_path / "out"))


@pytest.mark.parametrize("objective", ["generative", "masked"])
def test_objectives_refuse_an_encoding_without_values_before_any_cell_is_read(files, tmp_path, objective):
    encoding = '{"encoding": "rank", "truncation": "head"}'
    arguments = PretrainArguments(model_config=TINY, encoding=encoding, objective=objective)
    with pytest.raises(ConfigurationError, match=r"predicts expression values, and the encoding 'rank' has none"):
        pretrain(DataArguments(files), arguments, config(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_objectives_are_those_of_the_family(files, tmp_path):
    def refused(match, **settings):
        with pytest.raises(ConfigurationError, match=match):
            pretrain(DataArguments(files), PretrainArguments(**settings), config(tmp_path / "out"))
        assert not (tmp_path / "out").exists()

    refused(
        "scGPT is pre-trained on 'generative' or 'masked' or 'supervised' or 'contrastive', not on 'next_gene'",
        objective="next_gene",
    )
    refused(
        "scBERT is pre-trained on 'masked' or 'supervised' or 'contrastive', not on 'generative'",
        family="scbert",
        objective="generative",
    )
    refused("UCE cannot be pre-trained: its authors published", family="uce")
    refused("'read_depth' has no `mask_ratio`", family="scfoundation", mask_ratio=[0.5])


def test_masking_is_the_published_unless_told_otherwise(files):
    def collator(**settings):
        arguments = PretrainArguments(**settings)
        return create_collator(arguments, create_processor(DataArguments(files), arguments))

    scbert = collator(family="scbert")
    assert (scbert.mask_ratio, scbert.mask_zeros, scbert.replace_ratio) == (0.15, False, 0.9)
    assert collator(family="scbert", mask_ratio=[0.3]).mask_ratio == (0.3,)
    assert collator().mask_ratio == (0.25, 0.5, 0.75) and collator().second_pass_after == 1000


def test_a_new_scbert_learns_its_genes(files):
    arguments = PretrainArguments(family="scbert", model_config='{"hidden_size": 16, "num_hidden_layers": 1}')
    genes = create_model(arguments, create_processor(DataArguments(files), arguments)).get_input_embeddings().weight
    assert genes.requires_grad and genes.std() > 0.5


def test_a_cell_is_not_taken_from_a_token_that_is_not_there(files):
    data, without = DataArguments(files), '{"add_cls": false}'
    arguments = PretrainArguments(model_config=TINY, encoding=without)
    with pytest.raises(ConfigurationError, match=r"`add_cls`.*'avg-pool'"):
        create_model(arguments, create_processor(data, arguments))
    pooled = json.dumps(json.loads(TINY) | {"pooling": "avg-pool"})
    arguments = PretrainArguments(model_config=pooled, encoding=without)
    assert create_model(arguments, create_processor(data, arguments)).config.pooling == "avg-pool"


def test_a_new_vocabulary_has_a_gene_once_whatever_files_call_it(tmp_path):
    symbols = ["TP53", "KMT2A", "GAPDH", "ACTB", "CD3E", "NOVEL1"]
    # KMT2A by its former symbol, GAPDH and CD3E by Ensembl id, and a gene of its own
    others = ["TP53", "MLL", "ENSG00000111640", "ENSG00000198851.12", "NOVEL2"]
    files = [write_h5ad(tmp_path / "a.h5ad", 9, genes=symbols), write_h5ad(tmp_path / "b.h5ad", 9, genes=others)]
    processor = create_processor(DataArguments([*map(str, files)]), PretrainArguments())
    vocabulary = processor.tokenizer.gene_vocabulary
    assert sorted(set(vocabulary) - set(vocabulary.special_tokens)) == sorted([*symbols, "NOVEL2"])
    assert (vocabulary.map_genes(others).gene_ids >= 0).all()


def test_columns_that_one_file_holds_apart_stay_apart(tmp_path):
    write_h5ad(tmp_path / "a.h5ad", 9, genes=["KMT2A", "TP53"])
    write_h5ad(tmp_path / "b.h5ad", 9, genes=["KMT2A", "MLL"])
    assert gene_names(DataArguments([str(tmp_path)]), "counts") == ["KMT2A", "MLL", "TP53"]


def test_genes_that_few_files_measure_are_left_out_of_a_new_vocabulary(tmp_path):
    write_h5ad(tmp_path / "a.h5ad", 9, genes=["KMT2A", "TP53", "GAPDH"])
    # KMT2A by its former symbol
    write_h5ad(tmp_path / "b.h5ad", 9, genes=["MLL", "CD3E", "GAPDH"])
    write_h5ad(tmp_path / "c.h5ad", 9, genes=["ACTB", "GAPDH", "CD3E"])
    data = DataArguments([str(tmp_path)])
    assert gene_names(data, "counts", min_files=2) == ["CD3E", "GAPDH", "KMT2A"]
    assert gene_names(data, "counts", min_files=5) == gene_names(data, "counts", min_files=3) == ["GAPDH"]
    arguments = PretrainArguments(min_files=2)
    genes = create_processor(data, arguments).tokenizer.gene_vocabulary
    assert set(genes) - set(genes.special_tokens) == {"CD3E", "GAPDH", "KMT2A"}


def test_the_genes_that_vary_most_are_kept(tmp_path):
    cells = ad.read_h5ad(write_h5ad(tmp_path / "cells.h5ad", 30))
    cells.X = cells.X.toarray()
    cells.X[:, [3, 8]] = 0
    cells.write_h5ad(tmp_path / "cells.h5ad")
    data = DataArguments([str(tmp_path)])
    genes = create_processor(data, PretrainArguments(max_genes=len(GENES) - 2)).tokenizer.gene_vocabulary
    assert set(GENES) - set(genes) == {GENES[3], GENES[8]} and len(genes) == len(GENES) + 1
    assert set(GENES) <= set(create_processor(data, PretrainArguments(max_genes=1000)).tokenizer.gene_vocabulary)


def test_a_vocabulary_without_a_gene_and_one_that_is_named_twice_are_refused(tmp_path):
    write_h5ad(tmp_path / "a.h5ad", 9, genes=["KMT2A"])
    write_h5ad(tmp_path / "b.h5ad", 9, genes=["TP53"])
    with pytest.raises(ConfigurationError, match=r"No gene is measured by 2 of the 2 `train_files`.*--min_files"):
        gene_names(DataArguments([str(tmp_path)]), "counts", min_files=3)
    with pytest.raises(ConfigurationError, match=r"`min_files`.*`vocabulary`"):
        PretrainArguments(min_files=2, vocabulary="genes.json")
    with pytest.raises(ConfigurationError, match="at least 1"):
        PretrainArguments(min_files=0)
    with pytest.raises(ConfigurationError, match=r"`max_genes`.*`vocabulary`"):
        PretrainArguments(max_genes=9, model_name_or_path="folder")


def test_a_new_vocabulary_has_the_genes_of_the_layer_asked_for(tmp_path):
    whole = ad.read_h5ad(write_h5ad(tmp_path / "whole.h5ad", 9))
    part = whole[:, :4].copy()
    part.raw = whole
    part.layers["counts"] = part.X.copy()
    part.write_h5ad(tmp_path / "part.h5ad")
    file = [str(tmp_path / "part.h5ad")]
    assert gene_names(DataArguments(file), "counts") == sorted(GENES[:4])
    assert gene_names(DataArguments(file, layer="raw"), "counts") == sorted(GENES)


def test_a_model_knows_its_batches_by_name(tmp_path):
    def cells(name, donors):
        adata = ad.read_h5ad(write_h5ad(tmp_path / f"{name}.h5ad", 12))
        adata.obs["donor"] = [donors[i % len(donors)] for i in range(12)]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
        return DataArguments([str(tmp_path / f"{name}.h5ad")], batch_column="donor")

    settings = json.dumps(json.loads(TINY) | {"use_batch_labels": True})
    first = PretrainArguments(model_config=settings, objective="masked")
    pretrain(cells("a", ["x", "y", "z"]), first, config(tmp_path / "out", max_steps=1))
    assert AutoModel.from_pretrained(tmp_path / "out").config.batch_names == ["x", "y", "z"]
    known = str(tmp_path / "out")
    # z keeps its number, though the other batches are gone
    processor = AutoProcessor.from_pretrained(known)
    later = cells("b", ["z"])
    corpus, _ = open_corpora(later, processor, start_from=known)
    assert next(iter(corpus.batches(12)))["batch_labels"].tolist() == [2] * 12
    again = PretrainArguments(model_name_or_path=known, objective="masked")
    pretrain(later, again, config(tmp_path / "again", max_steps=1))
    assert AutoModel.from_pretrained(tmp_path / "again").config.batch_names == ["x", "y", "z"]
    with pytest.raises(CorpusError, match=r"\['new'\], not among the 3 names"):
        pretrain(cells("c", ["new"]), again, config(tmp_path / "third", max_steps=1))
