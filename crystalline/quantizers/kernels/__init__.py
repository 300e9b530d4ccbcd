"""Fast paths; the plain definition of each stands beside the code that uses it."""
