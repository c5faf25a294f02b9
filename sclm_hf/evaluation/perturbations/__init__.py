"""Perturbation screens: what is in them, how they are split, simple predictors, and how predictions are scored."""
