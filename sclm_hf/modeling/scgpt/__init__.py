"""scGPT (Cui et al., Nature Methods 2024)."""
