"""STGRNS (Xu et al., Bioinformatics 2023): a transformer over windows of cells that tells whether a gene regulates."""
