"""Settings of training as dataclasses, which are read and checked before torch is imported."""
