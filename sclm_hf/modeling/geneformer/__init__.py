"""Geneformer (Theodoris et al., Nature 2023; V2: Chen et al., 2024)."""
