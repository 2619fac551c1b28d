"""Checkpoints of other code bases, dict to dict, no network access."""
