"""The one door to a model: from a name or a folder to a model, its processor and its adapter."""
