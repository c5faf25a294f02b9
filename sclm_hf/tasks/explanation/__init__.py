"""Explanations of classes: cells with some of their genes, scores of genes, and curves that test the scores."""
