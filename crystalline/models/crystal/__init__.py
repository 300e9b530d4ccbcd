"""Crystal, the neuron field."""

from crystalline.models.crystal.model import Crystal

__all__ = ["Crystal"]
