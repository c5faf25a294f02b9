"""T-GEM (Zhang et al., Cancers 2022): attention among genes that are numbers, for phenotypes and types of cells."""
