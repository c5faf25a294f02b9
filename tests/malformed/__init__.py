"""Malformed inputs, made from sound ones by seeded damage: each must be refused clearly, or do no harm."""
