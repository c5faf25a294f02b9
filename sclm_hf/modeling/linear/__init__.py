"""Linear models of z-scored counts: logistic regression as a model of transformers."""
