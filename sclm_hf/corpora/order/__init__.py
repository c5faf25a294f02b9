"""The order of an epoch: a pure function of its seed, and which cells are held out."""
