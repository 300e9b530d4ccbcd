"""Sparse autoencoders of a trained model: codes that are found afterwards instead of learned."""

from crystalline.models.sae.model import SparseAutoencoders as SparseAutoencoders
from crystalline.models.sae.places import Sites as Sites
