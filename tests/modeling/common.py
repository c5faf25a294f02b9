"""The tests that every family gets. A family's test class names its classes and inputs; what it cannot promise stands
in `EXCEPTIONS`, with the reason.

Sizes are odd and unequal on purpose, so that a swapped axis fails.
"""

import copy

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from sclm_hf.modeling.common import cpu
from sclm_hf.modeling.common.probe import has_common_heads
from sclm_hf.registry import FAMILIES

from .stock_trainer import StockTrainerTester, costs_seconds

BATCH, GENES, VOCAB = 13, 7, 99

# (family, test) -> why the family cannot promise it
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("cellplm", "test_accumulation_equals_one_batch"): "the cells of a sample are one context, and are never split",
    ("cellplm", "test_embeddings_stand_in_for_ids"): "a cell is the sum of its genes' embeddings: tokens are cells",
    ("cellplm", "test_eager_equals_sdpa"): "its attention is linear, or softmax of one implementation",
    ("linear", "test_activation_checkpointing"): "it has no layers whose activations could be made again",
    ("linear", "test_eager_equals_sdpa"): "it has no attention",
    ("linear", "test_forward_shapes"): "vectors of genes come only with `output_hidden_states`: they fill the memory",
    ("linear", "test_hidden_states_and_attentions"): "it has no layers and no attention",
    ("linear", "test_lora_default_trains_and_reloads"): "it has no layer that a LoRA could adapt, and says so",
    ("scbert", "test_eager_equals_sdpa"): "its attention is the Performer's: one implementation, and its formula",
    (
        "uce",
        "test_compiles_without_graph_breaks",
    ): "rows of the protein table are read from disk, outside of the graph",
    ("uce", "test_padding_invariance"): "the original favours padding; with `padding_is_additive=False` it holds",
    ("uce", "test_resize_token_embeddings"): "a new gene needs the embedding of its protein: `set_protein_embeddings`",
}


class ModelTester(StockTrainerTester):
    """Mixin: subclass it, name the family, and give a tiny configuration and inputs.

    `head_class` in a test's arguments runs it for every head of the family (see `conftest.py`).
    """

    family: str
    base_class: type[PreTrainedModel]
    head_classes: tuple[type[PreTrainedModel], ...]
    permutation_equivariant = True

    def config(self, **changes) -> PreTrainedConfig:
        raise NotImplementedError

    def inputs(self, model_class: type[PreTrainedModel], *, labels: bool = False) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _exceptions_and_seed(self, request):
        reason = EXCEPTIONS.get((self.family, request.node.originalname))
        if reason:
            pytest.skip(reason)
        torch.manual_seed(0)

    def build(self, model_class: type[PreTrainedModel], **changes) -> PreTrainedModel:
        """A model in evaluation mode whose weights have no accidental symmetry."""
        model = model_class(self.config(**changes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return model.eval()

    def test_config_round_trip(self, tmp_path):
        config = self.config()
        config.save_pretrained(tmp_path)
        reloaded = AutoConfig.from_pretrained(tmp_path)
        assert type(reloaded) is type(config)
        assert comparable(reloaded) == comparable(config)

    def test_config_has_no_unknown_keys(self):
        known = set(PreTrainedConfig().to_dict()) | set(type(self.config()).__dataclass_fields__)
        known |= {"model_type", "transformers_version"}
        assert set(self.config().to_dict()) <= known

    def test_forward_shapes(self):
        model = self.build(self.base_class)
        output = model(**self.inputs(self.base_class))
        assert output.last_hidden_state.shape == (BATCH, GENES, model.config.hidden_size)
        assert output.cell_embedding.shape == (BATCH, model.config.cell_embedding_size)

    def test_hidden_states_and_attentions(self):
        model = self.build(self.base_class)
        model.set_attn_implementation("eager")
        output = model(**self.inputs(self.base_class), output_hidden_states=True, output_attentions=True)
        assert len(output.hidden_states) == model.config.num_hidden_layers + 1
        assert len(output.attentions) == model.config.num_hidden_layers
        assert output.attentions[0].shape == (BATCH, model.config.num_attention_heads, GENES, GENES)

    def test_save_and_load(self, head_class, tmp_path):
        model = self.build(head_class)
        model.save_pretrained(tmp_path)
        reloaded, info = head_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        state = model.state_dict()
        assert state.keys() == reloaded.state_dict().keys()
        for name, tensor in reloaded.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        frozen = [[name for name, p in m.named_parameters() if not p.requires_grad] for m in (model, reloaded)]
        assert frozen[0] == frozen[1]
        batch = self.inputs(head_class)
        self.assert_same_output(model(**batch), reloaded.eval()(**batch))

    def test_auto_classes(self, tmp_path):
        family = FAMILIES[self.family]
        for auto_class, class_name in family.auto_classes.items():
            model_class = next(c for c in (self.base_class, *self.head_classes) if c.__name__ == class_name)
            folder = tmp_path / auto_class
            self.build(model_class).save_pretrained(folder)
            assert type(getattr(transformers, auto_class).from_pretrained(folder)) is model_class

    def test_base_model_from_head_checkpoint(self, head_class, tmp_path):
        model = self.build(head_class)
        model.save_pretrained(tmp_path)
        base = AutoModel.from_pretrained(tmp_path)
        for name, tensor in base.state_dict().items():
            assert torch.equal(tensor, model.base_model.state_dict()[name]), name

    def test_base_model_from_a_folder_with_a_probe(self, head_class, tmp_path):
        if not has_common_heads(head_class):
            pytest.skip("it has none")
        config = self.config()
        config.probe_leaves = []
        model = head_class(config)
        model.save_pretrained(tmp_path)
        _, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["unexpected_keys"]
        # a classifier without a probe says what it does not use
        model.config.probe_leaves = None
        model.config.save_pretrained(tmp_path)
        _, info = head_class.from_pretrained(tmp_path, output_loading_info=True)
        assert any(key.startswith("probe.") for key in info["unexpected_keys"])

    def test_eager_equals_sdpa(self, head_class):
        model = self.build(head_class)
        batch = self.inputs(head_class)
        outputs = []
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            outputs.append(model(**batch))
        self.assert_same_output(*outputs, mask=batch["attention_mask"])

    def test_padding_invariance(self, head_class):
        model = self.build(head_class)
        batch = self.inputs(head_class)
        padded = self.pad(batch, 4)
        self.assert_same_output(model(**batch), model(**padded), mask=batch["attention_mask"])

    @torch.no_grad()
    def test_fast_inference_gives_the_same(self, head_class, monkeypatch):
        monkeypatch.setattr(cpu, "FEWEST_TOKENS", 1)
        model = self.build(head_class)
        batch = self.inputs(head_class)
        expected = model(**batch)
        with cpu.fast_on_cpu(model):
            self.assert_same_output(model(**batch), expected)

    @torch.no_grad()
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_cell_embeddings_alone_are_the_same(self, implementation):
        classes = [one for one in (self.base_class, *self.head_classes) if one.embeds_cells_alone]
        for model_class in classes:
            model = self.build(model_class)
            if model._supports_sdpa:
                model.set_attn_implementation(implementation)
            batch = self.inputs(model_class)
            whole, alone = model(**batch), model(**batch, cell_embedding_only=True)
            assert_close(alone.cell_embedding, whole.cell_embedding, atol=1e-5, rtol=1e-5)
            if "logits" in whole:
                assert_close(alone.logits, whole.logits, atol=1e-5, rtol=1e-5)
            states = model(**batch, cell_embedding_only=True, output_hidden_states=True).hidden_states
            assert len(states) == model.config.num_hidden_layers + 1
            assert states[-1].shape == (BATCH, GENES, model.config.hidden_size)

    def pad(self, batch: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        """The batch with `count` more padded positions on the right."""
        config = self.config()
        fill = {
            "input_ids": config.pad_token_id,
            "attention_mask": 0,
            "expression_values": getattr(config, "pad_value", 0),
        }
        padded = dict(batch)
        for name, tensor in batch.items():
            if tensor.ndim == 2 and tensor.shape[1] == GENES:
                columns = torch.full((len(tensor), count), fill.get(name, 0), dtype=tensor.dtype)
                padded[name] = torch.cat([tensor, columns], dim=1)
        return padded

    def test_gene_order_equivariance(self):
        if not self.permutation_equivariant:
            pytest.skip("the family reads genes in order")
        model = self.build(self.base_class)
        batch = self.inputs(self.base_class)
        order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(GENES - 1)])
        permuted = {name: tensor[:, order] if tensor.ndim == 2 else tensor for name, tensor in batch.items()}
        output, other = model(**batch), model(**permuted)
        real = permuted["attention_mask"].bool()
        if output.last_hidden_state is not None:
            states = output.last_hidden_state[:, order][real]
            assert_close(states, other.last_hidden_state[real], atol=1e-5, rtol=1e-5)
        assert_close(output.cell_embedding, other.cell_embedding, atol=1e-5, rtol=1e-5)

    def test_gradients_reach_every_parameter(self, head_class):
        model = self.build(head_class).train()
        model(**self.inputs(head_class, labels=True)).loss.backward()
        # what trains in several processes must have a gradient, even of zeros, in every step
        assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert set(without) <= self.parameters_without_gradient(head_class), without

    def parameters_without_gradient(self, head_class) -> set[str]:
        """Names that the loss of the tiny inputs cannot reach; each needs a reason where it is listed."""
        return set()

    def test_activation_checkpointing(self, head_class):
        batch = self.inputs(head_class, labels=True)
        model = self.build(head_class, **self.without_dropout()).train()
        loss = model(**batch).loss
        loss.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        model.gradient_checkpointing_enable()
        checkpointed = model(**batch).loss
        checkpointed.backward()
        assert_close(loss, checkpointed)
        for before, after in zip(gradients, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
            assert_close(before, after)

    def without_dropout(self) -> dict:
        return {"hidden_dropout_prob": 0.0}

    def test_accumulation_equals_one_batch(self, head_class):
        batch = self.inputs(head_class, labels=True)
        model = self.build(head_class, **self.without_dropout()).train()
        targets = (batch["labels"] != -100).sum()
        whole = model(**batch).loss
        parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 3), slice(3, None))]
        summed = sum(model(**part, num_items_in_batch=targets).loss for part in parts)
        assert_close(whole, summed, rtol=1e-5, atol=1e-6)

    def test_resize_token_embeddings(self, head_class, tmp_path):
        model = self.build(head_class)
        batch = self.inputs(head_class)
        before = model(**batch)
        model.resize_token_embeddings(VOCAB + 5)
        after = model(**batch)
        if "logits" in after and after.logits.shape[-1] == VOCAB + 5:
            after.logits = after.logits[..., :VOCAB]
        self.assert_same_output(before, after)
        batch["input_ids"][0, -1] = VOCAB + 4
        assert torch.isfinite(model(**batch)[0]).all()
        model.save_pretrained(tmp_path)
        assert head_class.from_pretrained(tmp_path).config.vocab_size == VOCAB + 5

    def test_lora_default_trains_and_reloads(self, head_class, tmp_path):
        import peft

        base = self.build(head_class)
        model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(**self.lora_settings(head_class)))
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        for _ in range(2):
            optimizer.zero_grad()
            model(**self.inputs(head_class, labels=True)).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        adapters = [name for name in trained if "lora_" in name]
        expected = 2 * self.num_lora_layers(head_class) * len(FAMILIES[self.family].lora_target_modules)
        assert len(adapters) == expected
        still = [name for name, parameter in trained.items() if torch.equal(parameter, before[name])]
        assert not still
        model.save_pretrained(tmp_path)
        reloaded = peft.PeftModel.from_pretrained(base, tmp_path)
        batch = self.inputs(head_class)
        self.assert_same_output(model.eval()(**batch), reloaded.eval()(**batch))

    def lora_settings(self, head_class) -> dict:
        """What this head needs beside the default `LoraConfig()`."""
        return {}

    def num_lora_layers(self, head_class) -> int:
        """Layers of the head's model that LoRA adapts."""
        return self.config().num_hidden_layers

    def test_bfloat16_is_finite(self, head_class):
        model = self.build(head_class).to(torch.bfloat16)
        output = model(**self.inputs(head_class, labels=True))
        assert torch.isfinite(output.loss)
        assert all(torch.isfinite(t.float()).all() for t in output.to_tuple() if isinstance(t, torch.Tensor))

    def test_model_made_in_bfloat16(self, head_class):
        model = head_class._from_config(self.config(), dtype=torch.bfloat16)
        assert {p.dtype for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()} == {torch.bfloat16}
        loss = model(**self.inputs(head_class, labels=True)).loss
        loss.backward()
        assert torch.isfinite(loss)

    def test_model_built_on_meta_gets_all_its_numbers(self, head_class):
        expected = head_class(self.config())
        with torch.device("meta"):
            model = head_class(self.config())
        model.to_empty(device="cpu")
        unwritten = 77
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.fill_(unwritten)
        model.init_weights()
        assert not [name for name, tensor in model.state_dict().items() if (tensor == unwritten).any()]
        for (name, buffer), (_, same) in zip(model.named_buffers(), expected.named_buffers(), strict=True):
            if name.endswith("features.projection"):
                block = torch.nn.functional.normalize(buffer[: buffer.shape[1]], dim=1)
                assert_close(block @ block.T, torch.eye(len(block)), atol=1e-5, rtol=0)
            elif not name.endswith(".u"):
                assert torch.equal(buffer, same), name

    def test_linear_layers_are_plain(self, head_class):
        """Tools that adapt or quantise layers know no subclass."""
        linear = [module for module in head_class(self.config()).modules() if isinstance(module, torch.nn.Linear)]
        assert linear and {type(module) for module in linear} == {torch.nn.Linear}

    def test_loss_or_prediction_comes_first(self, head_class):
        model = self.build(head_class)
        with_labels = model(**self.inputs(head_class, labels=True))
        assert with_labels[0] is with_labels.loss
        assert next(iter(model(**self.inputs(head_class)).values())).ndim >= 1
        predicted = {name: value for name, value in with_labels.items() if isinstance(value, torch.Tensor)}
        scalars = {name for name, value in predicted.items() if value.ndim == 0}
        assert scalars - {"loss"} <= set(model.config.keys_to_ignore_at_inference)

    def test_hidden_states_keep_gradients(self, head_class):
        model, batch = self.build(head_class), self.inputs(head_class)
        output = model(**batch, output_hidden_states=True)
        output.hidden_states[0].retain_grad()
        next(iter(output.values())).sum().backward()
        assert output.hidden_states[0].grad.abs().sum() > 0
        assert {state.shape for state in output.hidden_states} == {output.hidden_states[-1].shape}

    @costs_seconds
    def test_compiles_without_graph_breaks(self, head_class):
        # a process compiles the same code a few times only, and families share some
        torch.compiler.reset()
        model = self.build(head_class)
        batch = self.inputs(head_class)
        expected = model(**batch)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        self.assert_same_output(expected, compiled(**batch), mask=batch["attention_mask"])

    @costs_seconds
    def test_training_compiles_where_the_class_says_so(self, head_class):
        if not head_class._can_compile_fullgraph:
            pytest.skip("the class says that it does not")
        torch.compiler.reset()
        compiled = torch.compile(self.build(head_class).train(), fullgraph=True, backend="eager")
        assert torch.isfinite(compiled(**self.inputs(head_class, labels=True)).loss)

    def test_documentation_names_the_model(self):
        """transformers' own introduction names models and links of its own repositories."""
        intro = type(self.config()).__doc__.split("Args:")[0]
        assert FAMILIES[self.family].title in intro
        assert "None" not in intro and "huggingface.co" not in intro

    def assert_same_output(self, first, second, mask: torch.Tensor | None = None) -> None:
        """Equal tensors; tensors over genes are compared at real positions and at the width of the first."""
        assert first.keys() == second.keys()
        for name in first:
            a, b = first[name], second[name]
            if not isinstance(a, torch.Tensor):
                continue
            if a.ndim >= 2 and a.shape[1] == GENES:
                b = b[:, :GENES]
                if mask is not None:
                    a, b = a[mask.bool()], b[mask.bool()]
            assert_close(a, b, atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def comparable(config: PreTrainedConfig) -> dict:
    return {key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "architectures")}
