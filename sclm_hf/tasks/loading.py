"""The door to a model, where it was before it got a room of its own."""

from ..opening.loading import LoadedModel, default_device, load_model

__all__ = ["LoadedModel", "default_device", "load_model"]
