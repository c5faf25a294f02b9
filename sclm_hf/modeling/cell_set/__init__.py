"""A transformer over a set of control cells, which predicts the same cells after a perturbation."""
