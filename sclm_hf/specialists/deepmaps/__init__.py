"""DeepMAPS (Ma et al., Nature Communications 2023): cells and genes in one graph, embedded together."""
