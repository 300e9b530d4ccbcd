"""Small vocabulary-space models in which nothing is zero, and text for them."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.v9_meta import Meta
from crystalline.models.vocab_space.v11_tpg import Tpg

VOCAB = 12


def meta(**options: str) -> VocabSpace:
    """Two steps of a memory and an MLP each."""
    torch.manual_seed(0)
    return shaken(Meta(VOCAB, 16, num_steps=2, d_state=3, d_mlp=4, **options))


def routed() -> VocabSpace:
    """Two steps that choose: timescales, activations, when to halt."""
    torch.manual_seed(0)
    return shaken(Tpg(VOCAB, 16, num_steps=2, d_state=3, d_mlp=4))


def shaken(model: VocabSpace) -> VocabSpace:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def text() -> tuple[Tensor, Tensor]:
    """Tokens and targets, (3, 8); the last target of a row is not scored."""
    tokens = torch.randint(VOCAB, (3, 8), generator=torch.Generator().manual_seed(1))
    return tokens, torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=-100)
