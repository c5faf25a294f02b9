"""MarsGT (Wang et al., Nature Communications 2024): rare cells from a graph of cells, genes and peaks."""
