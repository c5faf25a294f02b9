"""Models as they run on cells that they do not learn from."""

import contextlib
from collections.abc import Iterator
from typing import Any

from ..registry import COMPOSITES, get_family


@contextlib.contextmanager
def independent_cells(model: Any) -> Iterator[None]:
    """Evaluation mode, with every cell independent of its batch and of chance; the model is restored afterwards."""
    # the encoder inside a composite has them in its configuration from the start
    is_composite = model.config.model_type in COMPOSITES
    overrides = {} if is_composite else get_family(model.config.model_type).embed_overrides
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
