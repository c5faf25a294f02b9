"""`sclm-hf estimate INPUT --model DIR`."""

from typing import Any

from ..tasks.integrate import IntegrateSettings
from ..tasks.running.settings import RunSettings
from .options import Input, Model, with_settings


@with_settings(RunSettings)
def estimate(input: Input, model: Model, **settings: Any) -> None:
    """Say what verbs and fine-tuning will take on the cells of a file; nothing is written."""
    from rich.console import Console
    from rich.table import Table

    from ..logging import counted
    from ..tasks.planning.estimate import BYTES
    from ..tasks.planning.estimate import estimate as estimated

    found = estimated(input, model, **settings)
    print(
        f"{counted(found.n_cells, 'cell')}, {found.n_tokens:,} tokens ({found.n_tokens / found.n_cells:,.0f} a cell, "
        f"at most {found.longest:,}), {found.coverage.count_share:.1%} of counts covered; "
        f"{found.n_parameters:,} parameters."
    )
    table = Table()
    for name in ("", "trained", *(f"memory in {dtype}" for dtype in BYTES), "time"):
        table.add_column(name, justify="right" if name else "left")
    for use, cost in found.costs.items():
        memory = [f"{found.memory(use, dtype) / 1e9:,.2f} GB" for dtype in BYTES]
        table.add_row(use, f"{cost.n_trained:,}", *memory, _time(cost.seconds))
    Console().print(table)
    print(
        f"Times are extrapolated from {counted(found.n_measured, 'cell')} run in {found.dtype} on {found.device}. "
        "Memory is that of weights, gradients, AdamW and one batch; what a layer holds inside, and torch, come on "
        "top. `annotate`, `map` and others that run every cell once take as long as `embed`. `perturb` deletes each "
        "gene of every cell by itself. `finetune` is for all cells once, `integrate fine_tune` for "
        f"{IntegrateSettings.n_steps} steps."
    )


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
