"""Any file to a smaller one and back, by a model's own chances."""
