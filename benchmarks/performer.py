"""One cell through a released-size scBERT, beside `performer-pytorch` (`pip install performer-pytorch`).

    python benchmarks/performer.py --output benchmarks/results/performer.json

A cell has 16,907 positions; weights are random and the same on both sides. The peer is its `PerformerLM` of the same
sizes. Its keys' maximum is taken over each head, so ours does that here too (`key_maximum="head"`), and the encodings
can be compared. Times are the best of several rounds in which the sides take turns, in one process. Memory is the peak
of a process of its own, above what it held when the model and the cell were there. `load_before` in the results tells
whether others used the machine.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from sclm_hf import ScBERTConfig, ScBERTForMaskedExpression
from sclm_hf.modeling.scbert.convert_scbert import WEIGHT_MAP

POSITIONS = 16_907
GOALS = {"float32": 2.0, "bfloat16": 3.5}
COSINE_GOAL, MEMORY_GOAL_MB = 0.999, 250
FEWEST_ROUNDS = 2
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def our_model(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    model = ScBERTForMaskedExpression(ScBERTConfig()).eval()
    model.model.embeddings.genes.weight.normal_(generator=torch.Generator().manual_seed(1))
    # the published maximum over the batch and this one over the head cost the same
    model.config.key_maximum = "head"
    return model.to(dtype)


def one_cell() -> torch.Tensor:
    """Bins of a cell with about 2,000 expressed genes."""
    draws = torch.rand(1, POSITIONS, generator=torch.Generator().manual_seed(2))
    return (draws > 0.88).long() * (1 + (draws * 1000).long() % 5)


def peer_model(ours: torch.nn.Module) -> torch.nn.Module:
    """`PerformerLM` with the weights of `ours`, which is scBERT's original but for the gene table in the positions."""
    from performer_pytorch import PerformerLM

    config = ours.config
    peer = PerformerLM(
        num_tokens=config.num_bins + 1,
        max_seq_len=POSITIONS,
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        dim_head=config.head_dim,
        rotary_position_emb=False,
        attn_out_bias=True,
    ).eval()
    names = {ours: theirs for theirs, ours in WEIGHT_MAP.items()}
    state = {}
    for name, tensor in ours.state_dict().items():
        layer = next((part for part in name.split(".") if part.isdigit()), "")
        state[next(theirs for mine, theirs in names.items() if mine.format(layer) == name).format(layer)] = tensor
    state["pos_emb.emb.weight"] = state["pos_emb.emb.weight"][:POSITIONS]
    del state["performer.calls_since_last_redraw"]
    # its layers are in it twice
    left_out = [name for name in peer.load_state_dict(state, strict=False).missing_keys if "proj_updater" not in name]
    if left_out:
        raise RuntimeError(f"The peer has weights that ours has not: {left_out}.")
    return peer


def measure_memory(dtype: str) -> None:
    """Print the peak memory in MB that one cell takes above the loaded process."""
    model, cell = our_model(DTYPES[dtype]), one_cell()
    with torch.no_grad():
        model(expression_values=cell[:, :64])
        status = Path("/proc/self/status")
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = _kilobytes(status, "VmRSS")
        model.model(expression_values=cell)
    print((_kilobytes(status, "VmHWM") - before) / 1024)


def _kilobytes(status: Path, key: str) -> int:
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))


def time_all(rounds: int, budget: float) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every round of both sides, and how alike the encodings are."""
    cell, sides, encodings = one_cell(), {}, {}
    for name, dtype in DTYPES.items():
        ours = our_model(dtype)
        peer = peer_model(our_model(torch.float32)).to(dtype)
        sides[f"ours {name}"] = lambda model=ours: model.model(expression_values=cell).last_hidden_state
        sides[f"peer {name}"] = lambda model=peer: model(cell, return_encodings=True)
    seconds = {name: [] for name in sides}
    stop = time.perf_counter() + budget
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and time.perf_counter() > stop:
            break
        for name, run in sides.items():
            start = time.perf_counter()
            encodings[name] = run().float()
            seconds[name].append(time.perf_counter() - start)
    reference = encodings["peer float32"].flatten().double()
    alike = {name: F.cosine_similarity(x.flatten().double(), reference, dim=0).item() for name, x in encodings.items()}
    return seconds, alike


def memory_of(dtype: str, threads: int) -> float:
    command = [sys.executable, __file__, "--memory-of", dtype, "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def judge(best: dict[str, float], alike: dict[str, float], memory: dict[str, float]) -> dict[str, bool]:
    peer = best["peer float32"]
    return {
        **{
            f"{name} {goal} x the peer in float32": peer / best[f"ours {name}"] >= goal for name, goal in GOALS.items()
        },
        f"cosine above {COSINE_GOAL}": min(alike[f"ours {name}"] for name in DTYPES) > COSINE_GOAL,
        f"at most {MEMORY_GOAL_MB} MB": max(memory.values()) <= MEMORY_GOAL_MB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=120, help="no further round is begun after so many seconds")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", choices=DTYPES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    if arguments.memory_of:
        measure_memory(arguments.memory_of)
        return
    load_before = os.getloadavg()[0]
    memory = {name: memory_of(name, arguments.threads) for name in DTYPES}
    seconds, alike = time_all(arguments.rounds, arguments.seconds)
    best = {name: min(rounds) for name, rounds in seconds.items()}
    results = {
        "positions": POSITIONS,
        "seconds_a_cell": {name: round(value, 3) for name, value in best.items()},
        "times_the_peer_in_the_same_type": {n: round(best[f"peer {n}"] / best[f"ours {n}"], 2) for n in DTYPES},
        "times_the_peer_in_float32": {n: round(best["peer float32"] / best[f"ours {n}"], 2) for n in DTYPES},
        "cosine_to_the_peer_in_float32": {name: round(value, 6) for name, value in alike.items()},
        "memory_mb_above_the_loaded_process": {name: round(value) for name, value in memory.items()},
        "goals_reached": judge(best, alike, memory),
        "rounds": {name: [round(value, 3) for value in rounds] for name, rounds in seconds.items()},
        "threads": arguments.threads,
        "load_before": load_before,
        "cpu": platform.processor() or platform.machine(),
        "versions": {name: importlib.metadata.version(name) for name in ("sclm_hf", "performer-pytorch", "torch")},
    }
    print(json.dumps(results, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
