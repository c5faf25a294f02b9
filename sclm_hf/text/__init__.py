"""Cells and text: sentences, conversations, answers by likelihood, evidence, puzzles, rewards and reasoning."""
