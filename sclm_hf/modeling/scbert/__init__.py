"""scBERT (Yang et al., Nature Machine Intelligence 2022)."""
