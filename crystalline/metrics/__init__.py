"""What is measured about a model and its text."""
