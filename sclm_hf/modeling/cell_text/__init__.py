"""Language models that read cells: an encoder of cells below, a projector, a causal language model above."""
