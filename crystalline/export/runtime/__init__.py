"""The neuron-field model in C, without dependencies."""
