"""Weights at lower precision, in files that stand alone like checkpoints."""
