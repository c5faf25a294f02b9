"""CIForm (Xu et al., Briefings in Bioinformatics 2023): a transformer over patches of genes that names cells."""
