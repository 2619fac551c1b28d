"""Attention and non-local blocks of other projects, computed by our operation, in place."""
