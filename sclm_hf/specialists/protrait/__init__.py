"""PROTRAIT (Wang et al., IJMS 2023): from the DNA sequence of a peak, in which cells it is open."""
