"""iSEEEK (Shen et al., Briefings in Bioinformatics 2022)."""
