"""CellPLM (Wen et al., ICLR 2024)."""
