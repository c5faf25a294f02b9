"""Genes: their table, the vocabularies of models, and how a name becomes an id."""
