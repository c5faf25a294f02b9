"""Objectives: what a model is asked to predict, one file each.

A collator is called with a batch of cells (and the epoch) and returns the model's inputs with `labels`; the loss is
the model head's business.
"""
