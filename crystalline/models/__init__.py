"""The architectures, one file or folder each."""
