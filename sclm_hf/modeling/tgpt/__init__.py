"""tGPT (Shen et al., iScience 2023)."""
