"""`sclm-hf estimate INPUT --model DIR`."""

import json
from typing import TYPE_CHECKING, Any

from ..tasks.integrate import IntegrateSettings
from ..tasks.running.settings import RunSettings
from .options import Genes, Input, Json, Model, with_settings

if TYPE_CHECKING:
    from ..tasks.planning.estimate import Estimate


@with_settings(RunSettings)
def estimate(input: Input, model: Model, genes: Genes = None, as_json: Json = False, **settings: Any) -> None:
    """Say what verbs and fine-tuning will take on the cells of a file; nothing is written."""
    from rich.console import Console
    from rich.table import Table

    from ..logging import counted
    from ..tasks.planning.estimate import BYTES
    from ..tasks.planning.estimate import estimate as estimated

    found = estimated(input, model, genes=genes, **settings)
    if as_json:
        print(json.dumps(_told(found)))
        return
    print(
        f"{counted(found.n_cells, 'cell')}, {found.n_tokens:,} tokens "
        f"({found.n_tokens / found.n_cells:,.0f} per cell, at most {found.longest:,}), "
        f"{found.coverage.count_share:.1%} of counts covered; {found.n_parameters:,} parameters."
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


def _told(found: "Estimate") -> dict[str, Any]:
    """What JSON holds: numbers, seconds and bytes."""
    from ..tasks.planning.estimate import BYTES

    names = ("n_cells", "n_tokens", "longest", "n_parameters", "n_measured", "dtype", "device")
    costs = {
        use: {
            "n_trained": cost.n_trained,
            "seconds": cost.seconds,
            "bytes": {dtype: found.memory(use, dtype) for dtype in BYTES},
        }
        for use, cost in found.costs.items()
    }
    return {
        **{name: getattr(found, name) for name in names},
        "count_share": found.coverage.count_share,
        "costs": costs,
    }


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.1f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
