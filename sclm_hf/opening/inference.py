"""Models as they run on cells that they do not learn from."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ..registry import FAMILIES


@contextlib.contextmanager
def independent_cells(model: Any) -> Iterator[None]:
    """Evaluation mode, with every cell independent of its batch and of chance; the model is restored afterwards."""
    # a composite has those of its encoder from the start, and a language model has none
    family = FAMILIES.get(model.config.model_type)
    overrides = family.embed_overrides if family else {}
    # chunks get smaller when memory runs out
    names = (*overrides, *(name for name in ("chunk_size",) if hasattr(model.config, name)))
    saved = {name: getattr(model.config, name) for name in names}
    training = model.training
    model.eval()
    for name, value in overrides.items():
        setattr(model.config, name, value)
    try:
        yield
    finally:
        for name, value in saved.items():
            setattr(model.config, name, value)
        model.train(training)
