"""Cells as text: sentences of genes and their inverse."""
