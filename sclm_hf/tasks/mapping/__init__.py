"""Labelled reference cells and what they say about others."""
