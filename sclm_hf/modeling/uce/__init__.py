"""UCE (Rosen et al., bioRxiv 2023)."""
