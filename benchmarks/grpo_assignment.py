"""Reinforcement learning raises the reward of a tiny language model that assigns cells to types.

A two-layer Llama with one token per gene is trained from scratch on a few solved puzzles of real cells (scanpy's
pbmc68k_reduced) until it keeps the form, then with GRPO on more; the reward is measured on puzzles of other cells
before and after. Everything on the CPU, through TRL with transformers' continuous batching.

    python benchmarks/grpo_assignment.py --seeds 0 1 --output benchmarks/results/grpo_assignment.json
"""

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import scanpy
import torch
from datasets import Dataset
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from sclm_hf.evaluation.text_metrics import assignment_scores
from sclm_hf.text.parsing import parse_blocks, split_labels
from sclm_hf.text.puzzles import assignment_puzzles
from sclm_hf.text.rewards import batch_assignment_reward, format_reward

TYPES = ["CD14+ Monocyte", "CD19+ B", "CD56+ NK", "Dendritic"]
TAGS = ["<think>", "</think>\n<answer>", "</answer>", "|"]
reward = partial(batch_assignment_reward, style="strict")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--sft_steps", type=int, default=100)
    parser.add_argument("--grpo_steps", type=int, default=60)
    parser.add_argument("--n_solved", type=int, default=100, help="solved puzzles to start from")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    runs = [run(seed, arguments) for seed in arguments.seeds]
    for name in ("before", "after"):
        values = [one[name]["reward"] for one in runs]
        print(f"reward {name}: {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})")
    if arguments.output:
        settings = {key: str(value) for key, value in vars(arguments).items() if key != "output"}
        arguments.output.write_text(json.dumps({"settings": settings, "runs": runs}, indent=1) + "\n")


def run(seed: int, arguments: argparse.Namespace) -> dict:
    """Train one model; the rewards on held-out puzzles before and after GRPO."""
    torch.manual_seed(seed)
    train, test = puzzles(seed)
    tokenizer = word_tokenizer([*train, *test])
    model = tiny_llama(tokenizer)
    started = time.perf_counter()
    learn_form(model, tokenizer, train[: arguments.n_solved], arguments.sft_steps, seed)
    before, middle = judge(model, tokenizer, test), time.perf_counter()
    reinforce(model, tokenizer, train, arguments.grpo_steps, seed)
    after = judge(model, tokenizer, test)
    seconds = {"sft": round(middle - started, 1), "grpo": round(time.perf_counter() - middle, 1)}
    print(json.dumps({"seed": seed, "before": before, "after": after, "seconds": seconds}), flush=True)
    return {"seed": seed, "before": before, "after": after, "seconds": seconds}


def puzzles(seed: int) -> tuple[list[dict], list[dict]]:
    """Puzzles of three cells; no cell is in both lists."""
    cells = scanpy.datasets.pbmc68k_reduced()
    cells = cells[cells.obs["bulk_labels"].isin(TYPES)].copy()
    is_test = np.random.default_rng(seed).random(cells.n_obs) < 0.3
    make = partial(assignment_puzzles, label_column="bulk_labels", cells=(3, 3), n_genes=12, seed=seed)
    return tuple(
        [{**one, "prompt": [{"role": "user", "content": short(one)}]} for one in make(part, n_per_donor=n)]
        for part, n in ((cells[~is_test], 400), (cells[is_test], 100))
    )


def short(puzzle: dict) -> str:
    """A puzzle without wording, which a model of this size would only have to read over."""
    return "\n".join([*puzzle["sentences"], " ".join(puzzle["candidates"])])


def word_tokenizer(rows: list[dict]) -> PreTrainedTokenizerFast:
    """One token per gene, per type and per tag."""
    words = sorted({word for row in rows for sentence in row["sentences"] for word in sentence.split()})
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer.add_tokens([AddedToken(one, normalized=False) for one in [*TAGS, *TYPES]])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")
    wrapped.chat_template = (
        "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}<eos>{% else %}\n{% endif %}{% endfor %}"
    )
    return wrapped


def tiny_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def learn_form(model, tokenizer, rows: list[dict], steps: int, seed: int) -> None:
    """Supervised fine-tuning on solved puzzles: the reasoning names the highest gene of each cell."""
    solved = [
        {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": solution(row)}]} for row in rows
    ]
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        lr_scheduler_type="constant",
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        gradient_checkpointing=False,
        seed=seed,
    )
    SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(solved), processing_class=tokenizer).train()


def solution(row: dict) -> str:
    reasoning = " ".join(sentence.split()[0] for sentence in row["sentences"])
    return f"<think>{reasoning}</think>\n<answer>{'|'.join(row['answer'])}</answer>"


def reinforce(model, tokenizer, rows: list[dict], steps: int, seed: int) -> None:
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=steps,
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=12,
        learning_rate=5e-4,
        lr_scheduler_type="constant",
        temperature=1.0,
        beta=0.0,
        reward_weights=[1.0, 0.2],
        use_transformers_continuous_batching=True,
        # without these it plans its cache for the memory of a large GPU
        transformers_continuous_batching_config={"page_size": 32, "num_blocks": 256, "max_batch_tokens": 512},
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        logging_steps=20,
        gradient_checkpointing=False,
        seed=seed,
    )
    data = Dataset.from_list([{"prompt": row["prompt"], "answer": row["answer"]} for row in rows])
    GRPOTrainer(
        model=model, args=config, reward_funcs=[reward, format_reward], train_dataset=data, processing_class=tokenizer
    ).train()


def judge(model, tokenizer, rows: list[dict], n_samples: int = 8) -> dict[str, float]:
    """Mean reward of sampled answers, which GRPO raises, and reward and accuracy of the most probable ones."""
    model.eval()
    torch.manual_seed(0)
    sampled, greedy = [], []
    for row in rows:
        sampled += written(model, tokenizer, row, do_sample=True, num_return_sequences=n_samples)
        greedy += written(model, tokenizer, row, do_sample=False)
    gold = [row["answer"] for row in rows]
    answers = [parse_blocks(text) for text in greedy]
    scores = assignment_scores(gold, [None if one is None else split_labels(one.answer) for one in answers])
    return {
        "reward": float(np.mean(reward(sampled, [one for one in gold for _ in range(n_samples)]))),
        "greedy_reward": float(np.mean(reward(greedy, gold))),
        "greedy_cell_accuracy": scores.cell_accuracy,
        "greedy_batch_accuracy": scores.batch_accuracy,
    }


@torch.inference_mode()
def written(model, tokenizer, row: dict, **options) -> list[str]:
    """Answers to a puzzle."""
    prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, max_new_tokens=12, **options)[:, inputs["input_ids"].shape[1] :]
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


if __name__ == "__main__":
    main()
