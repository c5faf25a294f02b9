"""TransformerST (Zhao et al., Briefings in Bioinformatics 2024): domains of tissue from graphs of its spots."""
