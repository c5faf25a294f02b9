"""scMVP (Li et al., Genome Biology 2022): a mixture model of the RNA and the open chromatin of the same cells."""
