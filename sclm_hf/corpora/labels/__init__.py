"""What the labels of cells mean: names of different grain as sets of the leaves of one ontology."""
