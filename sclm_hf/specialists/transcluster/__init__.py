"""transCluster (Song et al., Frontiers in Genetics 2022): a transformer over discriminant scores that names cells."""
