"""Dual encoders: an encoder of cells and an encoder of texts that share one space."""
