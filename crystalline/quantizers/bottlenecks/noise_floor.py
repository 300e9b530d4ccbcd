"""What an entropy reads when there is nothing but noise to measure (spec section 3, P3)."""

from __future__ import annotations

from functools import lru_cache

import torch

_DRAWS = 1 << 21  # of the noise of one code: the mean is good to about 0.003 nats


@lru_cache
def gumbel_entropy(codebook_size: int, temperature: float) -> float:
    """Mean entropy, in nats, of softmax(g / temperature) with Gumbel(0, 1) noise g for K codes.

    Drawn with a fixed seed: the same number on every machine.
    """
    generator = torch.Generator().manual_seed(0)
    draws = torch.empty(max(1, _DRAWS // codebook_size), codebook_size, dtype=torch.float64)
    noise = -draws.exponential_(generator=generator).log()
    return float(torch.special.entr((noise / temperature).softmax(-1)).sum(-1).mean())
