"""scTransSort (Jiao et al., Biomolecules 2023): a vision transformer over genes laid out as an image."""
