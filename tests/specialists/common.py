"""The tests that every task-specific model gets. A test class names the model, tiny cells and small settings."""

import importlib
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import transformers
from anndata import AnnData
from huggingface_hub.errors import StrictDataclassError
from scipy.sparse import csr_matrix
from torch.testing import assert_close
from transformers import AutoConfig, AutoProcessor
from typer.testing import CliRunner

import sclm_hf
from sclm_hf.cli.main import app
from sclm_hf.errors import CheckpointError, ConfigurationError
from sclm_hf.hub.card import start_facts, write_card
from sclm_hf.hub.remote_code import export_with_code
from sclm_hf.objectives.complete import CompleteCollator
from sclm_hf.opening.specialists import load_specialist
from sclm_hf.opening.weights import open_model
from sclm_hf.registry.specialists import SPECIALISTS
from sclm_hf.tasks import get_function, get_verb
from sclm_hf.tasks.planning.estimate import estimate

from ..bare_site import make_site, run_script
from . import bare_outputs

GOLDEN = Path(__file__).parents[1] / "golden" / "tasks"


def golden_arrays(name: str, case: str) -> dict[str, np.ndarray]:
    """The recorded inputs and outputs of the original."""
    with np.load(GOLDEN / name / case / "io.npz", allow_pickle=False) as stored:
        return dict(stored)


def convert_golden(name: str, case: str, folder: Path) -> Path:
    """The recorded weights of the original, converted by the converter that ships."""
    converter = importlib.import_module(SPECIALISTS[name].conversion_module)
    converter.convert_checkpoint(GOLDEN / name / case, folder / case)
    return folder / case


def open_golden(name: str, case: str, folder: Path, **settings: Any) -> Any:
    """The converted model, opened through its Auto class, in evaluation mode."""
    converted = convert_golden(name, case, folder)
    auto = getattr(transformers, next(iter(SPECIALISTS[name].auto_classes)))
    return auto.from_pretrained(converted, **settings).eval()


def close(found: torch.Tensor, recorded: np.ndarray, scale: float = 1e-5) -> None:
    """Equal to a recorded array, to 1e-5 of its largest number or of 1."""
    recorded = torch.as_tensor(recorded)
    largest = max(1.0, float(recorded.abs().max()))
    assert_close(found.detach().to(recorded.dtype), recorded, atol=scale * largest, rtol=0)


def labelled_cells(n_cells: int = 60, n_genes: int = 40, n_types: int = 3, seed: int = 0) -> AnnData:
    """Counts of cells of a few types, each of which has genes of its own."""
    random = np.random.default_rng(seed)
    types = np.arange(n_cells) % n_types
    rates = random.gamma(1.0, 1.0, n_genes) + 6.0 * (np.arange(n_genes) % n_types == types[:, None])
    cells = AnnData(csr_matrix(random.poisson(rates).astype(np.float32)))
    cells.obs_names = [f"cell{number}" for number in range(n_cells)]
    cells.var_names = [f"GENE{number}" for number in range(n_genes)]
    cells.obs["cell_type"] = [f"type {number}" for number in types]
    return cells


def paired_cells(n_cells: int = 60, n_genes: int = 40, n_peaks: int = 60, seed: int = 0) -> dict[str, AnnData]:
    """RNA and open peaks of cells of three types, each of which has genes and peaks of its own."""
    rna = labelled_cells(n_cells, n_genes, seed=seed)
    random = np.random.default_rng([seed, 1])
    types = np.arange(n_cells) % 3
    share = 0.05 + 0.3 * (np.arange(n_peaks) % 3 == types[:, None])
    atac = AnnData(csr_matrix((random.random((n_cells, n_peaks)) < share).astype(np.float32)))
    atac.obs_names, atac.var_names = rna.obs_names, [f"chr1-{number}000-{number}500" for number in range(n_peaks)]
    return {"rna": rna, "atac": atac}


def gene_positions(cells: AnnData) -> Any:
    """Where the genes of paired cells start: one after the other among their peaks."""
    import pandas

    return pandas.DataFrame(
        {"gene": cells.var_names, "chrom": "chr1", "tss": [1000 * number for number in range(cells.n_vars)]}
    )


class SpecialistTester:
    """Mixin: subclass it, name the model, and give its cells and settings.

    Attributes:
        name: the model.
        settings: settings of `fit`, those of the processor included.
        model_config: settings of a small configuration.
        training: settings of a short training, in which the loss falls.
    """

    name: ClassVar[str]
    settings: ClassVar[dict[str, Any]] = {}
    model_config: ClassVar[dict[str, Any]] = {}
    training: ClassVar[dict[str, Any]] = {"num_train_epochs": 10}

    def cells(self) -> Any:
        """What the model is trained on."""
        raise NotImplementedError

    def verb_settings(self, verb: str) -> dict[str, Any]:
        """Settings of a verb that this model cannot do without."""
        return {}

    def run_verb(self, verb: str, folder: Path) -> Any:
        """What a verb makes of the cells."""
        cells, settings = self.cells(), self.verb_settings(verb)
        if verb == "evaluate":
            settings = settings | {"label_key": "cell_type", "seen": "score"}
        if not isinstance(cells, AnnData):
            rna, other = cells.values()
            return get_function(verb)(rna, model=str(folder), other=other, **settings)
        return get_function(verb)(cells, str(folder), **settings)

    def fit(self, folder: Path, seed: int = 0) -> Any:
        training = {"logging_steps": 1, "use_cpu": True} | self.training
        return sclm_hf.fit(
            self.name,
            self.cells(),
            folder,
            model_config=self.model_config,
            training=training,
            seed=seed,
            **self.settings,
        )

    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, tmp_path_factory):
        """The folder of a trained model, and the result of its training."""
        folder = tmp_path_factory.mktemp(cls.name) / "model"
        return folder, cls().fit(folder)

    @property
    def record(self):
        return SPECIALISTS[self.name]

    @property
    def verbs(self) -> list[str]:
        """The verbs that serve what it was trained on."""
        return list(self.record.verbs)

    def test_the_loss_falls(self, fitted):
        losses = [record["loss"] for record in fitted[1].history if "loss" in record]
        tenth = max(1, len(losses) // 5)
        assert np.mean(losses[-tenth:]) < np.mean(losses[:tenth])

    def test_the_same_seed_gives_the_same_weights(self, fitted, tmp_path):
        self.fit(tmp_path / "again")
        files = [(folder / "model.safetensors").read_bytes() for folder in (fitted[0], tmp_path / "again")]
        assert files[0] == files[1]

    def test_auto_classes_open_it(self, fitted):
        assert AutoConfig.from_pretrained(fitted[0]).model_type == self.name
        assert type(AutoProcessor.from_pretrained(fitted[0])).__name__ == self.record.processor
        for auto_class, model_class in self.record.auto_classes.items():
            opened, info = getattr(transformers, auto_class).from_pretrained(fitted[0], output_loading_info=True)
            assert type(opened).__name__ == model_class
            assert not info["missing_keys"] and not info["mismatched_keys"]

    def test_saved_again_it_is_the_same(self, fitted, tmp_path):
        loaded = load_specialist(fitted[0])
        loaded.model.save_pretrained(tmp_path)
        loaded.processor.save_pretrained(tmp_path)
        again = load_specialist(tmp_path)
        assert again.processor == loaded.processor
        for name, tensor in loaded.model.state_dict().items():
            assert torch.equal(tensor, again.model.state_dict()[name]), name

    def test_its_verbs_give_finite_results(self, fitted):
        for name in self.verbs:
            found = self.run_verb(name, fitted[0])
            if get_verb(name).gives_table:
                assert len(found)
                continue
            assert found.uns["sclm_hf"], name
            for values in found.obsm.values():
                assert np.isfinite(np.asarray(values)).all()

    def test_verbs_of_single_cells_work_on_files(self, fitted, tmp_path):
        cells = self.cells()
        if not isinstance(cells, AnnData):
            pytest.skip("cells of two modalities are two files")
        cells.write_h5ad(tmp_path / "cells.h5ad")
        for verb in {"embed", "annotate"} & set(self.record.verbs):
            arguments = [verb, str(tmp_path / "cells.h5ad"), str(tmp_path / f"{verb}.h5ad"), "--model", str(fitted[0])]
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, (done.output, done.exception)
            refused = CliRunner().invoke(
                app, [*arguments[:2], str(tmp_path / "x.h5ad"), *arguments[3:], "--shard", "1/2"]
            )
            assert refused.exit_code == 1 and "reads all cells" in refused.output

    def test_its_verbs_say_the_same_twice(self, fitted):
        name = self.verbs[0]
        one, two = (self.run_verb(name, fitted[0]) for _ in range(2))
        if get_verb(name).gives_table:
            assert one.equals(two)
            return
        assert one.obs.equals(two.obs)
        for key, values in one.obsm.items():
            assert np.array_equal(values, two.obsm[key]), key

    def test_other_verbs_are_refused(self, fitted):
        other = "impute"
        assert other not in self.record.verbs
        with pytest.raises(ConfigurationError, match=f"{self.record.title} does not serve"):
            get_function(other)(labelled_cells(), str(fitted[0]))

    def test_there_is_no_estimate(self, fitted):
        with pytest.raises(ConfigurationError, match=f"{self.record.title} is a task-specific model"):
            estimate(labelled_cells(), str(fitted[0]))

    def test_predictions_are_scored(self, fitted, tmp_path):
        cells = self.cells()
        if "evaluate" not in self.record.verbs:
            if "annotate" in self.record.verbs:
                with pytest.raises(ConfigurationError, match="does not serve `evaluate`"):
                    sclm_hf.evaluate(cells, str(fitted[0]), label_key="cell_type")
            return
        with pytest.raises(ConfigurationError, match=r"60 of the 60 cells .* stand in the training manifest"):
            sclm_hf.evaluate(cells, str(fitted[0]), label_key="cell_type")
        found = sclm_hf.evaluate(cells, str(fitted[0]), label_key="cell_type", seen="score")
        facts = found.uns["sclm_hf"]["sclm_prediction"]
        right = found.obs["sclm_prediction"].astype(str) == cells.obs["cell_type"]
        assert facts["scores"]["accuracy"]["mean"] == pytest.approx(right.mean())
        assert facts["n_seen"] == 60 and found.obs["sclm_seen_in_training"].all()
        cells.write_h5ad(tmp_path / "cells.h5ad")
        arguments = ["evaluate", str(tmp_path / "cells.h5ad"), str(tmp_path / "scored.h5ad"), "--model"]
        arguments += [str(fitted[0]), "--label-key", "cell_type", "--seen", "score"]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0 and "accuracy" in done.output, (done.output, done.exception)

    def test_unknown_settings_are_refused(self, tmp_path):
        with pytest.raises(ConfigurationError, match="nonsense"):
            sclm_hf.fit(self.name, self.cells(), tmp_path / "x", **self.settings, nonsense=1)
        with pytest.raises(ConfigurationError, match="nonsense"):
            sclm_hf.fit(self.name, self.cells(), tmp_path / "x", **self.settings, model_config={"nonsense": 1})

    def test_lora_adapts_its_layers(self, fitted, tmp_path):
        import peft

        if not self.record.lora_target_modules:
            pytest.skip("it has no linear layer worth adapting")
        auto = getattr(transformers, next(iter(self.record.auto_classes)))
        adapted = peft.get_peft_model(auto.from_pretrained(fitted[0]), peft.LoraConfig(r=2))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        adapted.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(auto.from_pretrained(fitted[0]), tmp_path)
        for name, tensor in adapted.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name

    def test_adapters_are_saved_loaded_and_merged(self, fitted, tmp_path):
        from sclm_hf.adapters.lora import add_lora, load_adapter, merge_adapter, save_adapter

        model = open_model(str(fitted[0]), next(iter(self.record.auto_classes)))
        if not self.record.lora_target_modules:
            with pytest.raises(ConfigurationError, match=f"{self.record.title} has no layer that a LoRA could adapt"):
                add_lora(model)
            return
        with pytest.raises(ConfigurationError, match="leave out `train_gene_embeddings`"):
            add_lora(model, train_gene_embeddings=True)
        adapted = add_lora(model, r=2)
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        save_adapter(adapted, tmp_path, processor=load_specialist(fitted[0]).processor)
        assert f"- Family: {self.record.title}" in (tmp_path / "README.md").read_text()
        again = load_adapter(tmp_path)
        for name, tensor in adapted.state_dict().items():
            assert torch.equal(tensor, again.state_dict()[name]), name
        merged = merge_adapter(again)
        opened = load_specialist(tmp_path)
        assert type(merged) is type(model) is type(opened.model) and opened.record is self.record
        for name, tensor in merged.state_dict().items():
            assert torch.equal(tensor, opened.model.state_dict()[name]), name

    def test_trained_adapters_are_the_same_when_loaded(self, fitted, tmp_path):
        from sclm_hf.adapters.lora import add_lora, load_adapter, save_adapter

        if not self.record.lora_target_modules:
            pytest.skip("it has no linear layer worth adapting")
        adapted = add_lora(open_model(str(fitted[0]), next(iter(self.record.auto_classes))), r=2)
        processor = type(load_specialist(fitted[0]).processor).fit(self.cells(), **self.settings)
        examples = processor.examples(self.cells(), 0)
        size = (self.record.recipe | self.training)["per_device_train_batch_size"]
        rows = np.arange(min(8, size, examples.size))
        batches = [CompleteCollator()(examples.make(rows, epoch)) for epoch in range(3)]
        optimizer = torch.optim.SGD([one for one in adapted.parameters() if one.requires_grad], lr=1e-3)
        for batch in batches:
            adapted.train()(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        save_adapter(adapted, tmp_path, processor=processor)
        outputs = []
        for model in (adapted.eval(), load_adapter(tmp_path)):
            torch.manual_seed(0)
            with torch.no_grad():
                outputs.append(model(**batches[0]))
        for name, value in outputs[0].items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, outputs[1][name]), name

    def test_card_says_what_it_is(self, fitted, tmp_path):
        facts = start_facts(fitted[0], license="mit")
        card = write_card(facts, tmp_path).read_text()
        for said in (self.record.title, self.record.paper, self.record.code_license, self.record.repository):
            assert said in card, said

    def test_the_example_of_its_card_runs(self, fitted, tmp_path, monkeypatch):
        facts = start_facts(fitted[0], license="mit")
        facts.model = str(fitted[0])
        (code,) = re.findall(r"```python\n(.*?)```", write_card(facts, tmp_path).read_text(), re.DOTALL)
        cells = self.cells()
        first, *others = [cells] if isinstance(cells, AnnData) else cells.values()
        first.write_h5ad(tmp_path / "cells.h5ad")
        for other in others:
            for name in ("other", *cells):
                other.write_h5ad(tmp_path / f"{name}.h5ad")
        monkeypatch.chdir(tmp_path)
        exec(code, {})

    def test_the_card_of_an_adapter_names_its_base(self, fitted, tmp_path):
        from sclm_hf.adapters.lora import add_lora, save_adapter

        if not self.record.lora_target_modules:
            pytest.skip("it has no linear layer worth adapting")
        model = open_model(str(fitted[0]), next(iter(self.record.auto_classes)))
        save_adapter(add_lora(model, r=2), tmp_path)
        facts = start_facts(tmp_path, license="mit")
        assert facts.is_adapter and (tmp_path / facts.base_model).resolve() == fitted[0].resolve()
        assert load_specialist(tmp_path).processor == load_specialist(fitted[0]).processor

    def test_manifest_holds_the_cells(self, fitted):
        from sclm_hf.corpora.training_manifest import read_manifest

        cells = self.cells()
        first = cells if isinstance(cells, AnnData) else next(iter(cells.values()))
        assert len(read_manifest(str(fitted[0]))) == first.n_obs

    def processor_arguments(self) -> tuple[Any, dict[str, Any]]:
        """What its processor is called with: cells, and settings that it cannot do without."""
        return self.cells(), {}

    @pytest.mark.slow
    def test_it_opens_without_the_package_and_gives_the_same_to_the_last_bit(self, fitted, tmp_path):
        exported = export_with_code(fitted[0], tmp_path / "exported")
        (tmp_path / "site").mkdir()
        (tmp_path / "input.pickle").write_bytes(pickle.dumps(self.processor_arguments()))
        environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HF_MODULES_CACHE": str(tmp_path / "code")}
        found = {}
        for folder, site in ((fitted[0], None), (exported, make_site(tmp_path / "site", self.record))):
            output = tmp_path / f"{site is None}.npz"
            arguments = (tmp_path / "input.pickle", folder, output, tmp_path / f"{output.stem}_saved")
            run_script(bare_outputs.__file__, *map(str, arguments), folder=tmp_path, site=site, **environment)
            found[site is None] = dict(np.load(output))
        assert found[True].keys() == found[False].keys() and len(found[True]) > 1
        for name, value in found[True].items():
            np.testing.assert_array_equal(found[False][name], value, name)

    def test_processor_of_another_model_is_refused(self, fitted, tmp_path):
        file = tmp_path / "processor_config.json"
        state = json.loads((fitted[0] / "processor_config.json").read_text())
        file.write_text(json.dumps(state | {"processor_class": "Other"}))
        with pytest.raises(CheckpointError, match="is not of a"):
            type(load_specialist(fitted[0]).processor).from_pretrained(tmp_path)

    @pytest.mark.parametrize("value", [5, "x", [None], [["x"]], {"x": 1}])
    def test_learnt_fields_of_another_kind_are_refused(self, fitted, value, tmp_path):
        processor_class = type(load_specialist(fitted[0]).processor)
        state = json.loads((fitted[0] / "processor_config.json").read_text())
        for name in processor_class.learnt:
            if isinstance(state[name], float | dict) and isinstance(value, int | dict):
                continue
            (tmp_path / "processor_config.json").write_text(json.dumps(state | {name: value}))
            with pytest.raises(CheckpointError, match="damaged"):
                processor_class.from_pretrained(tmp_path)

    def test_processor_of_other_sizes_is_refused(self, fitted):
        loaded = load_specialist(fitted[0])
        for name, size in loaded.processor.config_settings().items():
            if type(size) is int:
                setattr(loaded.model.config, name, size + 1)
                with pytest.raises(ConfigurationError, match=f"does not fit .*`{name}`"):
                    load_specialist(loaded.model, processor=loaded.processor)
                setattr(loaded.model.config, name, size)

    @pytest.mark.parametrize("changes", [{"hidden_dropout_prob": -1.0}, {"num_attention_heads": 0}])
    def test_numbers_that_no_model_has_are_refused(self, fitted, changes, tmp_path):
        edited = shutil.copytree(fitted[0], tmp_path / "edited")
        settings = json.loads((edited / "config.json").read_text())
        (edited / "config.json").write_text(json.dumps(settings | changes))
        (name,) = changes
        with pytest.raises(CheckpointError, match=name):
            load_specialist(edited)
        for auto_class in ("AutoConfig", *self.record.auto_classes):
            with pytest.raises(StrictDataclassError, match=name):
                getattr(transformers, auto_class).from_pretrained(edited)
