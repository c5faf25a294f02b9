"""The rewards inside TRL's own trainer."""

from functools import partial

import pytest

from sclm_hf.corpora.cell_corpus import CellCorpus
from sclm_hf.opening.loading import load_model
from sclm_hf.opening.tiny import make_tiny_checkpoint
from sclm_hf.text.code_words import CodeWords
from sclm_hf.text.conversations import Conversations
from sclm_hf.text.language_models import add_cell_tokens
from sclm_hf.text.rewards import SoftVerifier, batch_assignment_reward, format_reward

from .small import GENES, make_language_model, write_cells

pytestmark = pytest.mark.slow


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", "CD3D", "MS4A1", "B", "T", "|"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    wrapped.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    return wrapped


def test_grpo_trains_with_continuous_batching_on_the_cpu(tokenizer, tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, **sizes))
    before = model.lm_head.weight.detach().clone()
    prompt = [{"role": "user", "content": "CD3D MS4A1"}]
    rows = [{"prompt": prompt, "answer": ["T", "B"], "cell_id": ["a", "b"]}] * 4
    verifier = SoftVerifier([[0.9, 0.1], [0.2, 0.8]], ["T", "B"], ["a", "b"])
    trainer = trl.GRPOTrainer(
        model=model,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=16,
            num_generations=16,
            max_completion_length=3,
            learning_rate=0.1,
            use_transformers_continuous_batching=True,
            transformers_continuous_batching_config={"page_size": 8, "num_blocks": 64, "max_batch_tokens": 64},
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
        ),
        reward_funcs=[partial(batch_assignment_reward, style="strict"), format_reward, verifier],
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = trainer.state.log_history[-1]
    assert "rewards" in " ".join(logged) and not model.lm_head.weight.equal(before)


def test_grpo_trains_on_cells_as_code_words(tmp_path):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    loaded = load_model(make_tiny_checkpoint("scgpt", tmp_path / "encoder", genes=GENES), "AutoModel", device="cpu")
    corpus = CellCorpus(write_cells(tmp_path), loaded.processor, label_column="cell_type")
    codes = CodeWords.fit(loaded.model, corpus, n_words=3, n_codes=4)
    model, tokenizer = make_language_model(tasks=["annotate_codes"])
    ids = add_cell_tokens(model, tokenizer, codes.codebook)
    before = model.get_input_embeddings().weight[ids].detach().clone()
    conversations = Conversations(corpus, "annotate_codes", tokenizer=tokenizer, cells_as=codes)
    rows = [{"prompt": row["prompt"], "label": row["label"]} for row in conversations.to_dataset()]

    def answers_begin_alike(completions, label, **_):
        return [float(one[0]["content"][:1] == right[:1]) for one, right in zip(completions, label, strict=True)]

    trainer = trl.GRPOTrainer(
        model=model,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=3,
            per_device_train_batch_size=16,
            num_generations=16,
            max_completion_length=2,
            learning_rate=0.1,
            temperature=2.0,
            use_cpu=True,
            bf16=False,
            report_to="none",
            save_strategy="no",
        ),
        reward_funcs=answers_begin_alike,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    assert not model.get_input_embeddings().weight[ids].equal(before)
