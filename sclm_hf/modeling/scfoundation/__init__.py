"""scFoundation (Hao et al., Nature Methods 2024)."""
