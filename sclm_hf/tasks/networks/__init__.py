"""Networks of genes: which genes, what speaks for an edge, and the table of edges."""
