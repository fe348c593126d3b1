"""Checkpoints of unfinished runs: their state, their files, and the training hooks."""
