"""Models whose every state is a vector over the vocabulary; one file a variant."""

from crystalline.models.vocab_space.model import VocabSpace

__all__ = ["VocabSpace"]
