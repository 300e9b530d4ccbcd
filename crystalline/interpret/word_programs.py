"""Program listings: which of several ways a part takes, how surely, and after which words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crystalline.models.vocab_space.model import VocabSpace
from crystalline.models.vocab_space.readable import Mixture, Readable


def program_row(
    name: str,
    mixtures: Sequence[Mixture],
    classes: Sequence[np.ndarray],
    class_names: Sequence[str] = (),
) -> dict[str, Any]:
    """How a part chose among its ways over all positions.

    Args:
        name: Of the choice.
        mixtures: Of several batches.
        classes: int64 (batch, pos) class of each token of them.
        class_names: What they are called; () leaves usage by class out.

    Returns:
        `usage`: mean share of each way. `sureness`: 1 - mean H(share) / ln ways: 1 takes one way at
        a time, 0 all alike. `selectivity`: (H(mean share) - mean H(share)) / ln ways: 0 where every
        position takes the same mixture. `by_class`: usage after tokens of each class that is there.
    """
    ways = mixtures[0].names
    shares = torch.cat([mixture.shares.double().flatten(0, -2).cpu() for mixture in mixtures])
    usage, single = shares.mean(0), float(_entropy(shares).mean())
    most = math.log(len(ways)) if len(ways) > 1 else 1.0
    kinds = torch.from_numpy(np.concatenate([each.reshape(-1) for each in classes]))
    by_class = {
        title: _named(ways, shares[kinds == kind].mean(0))
        for kind, title in enumerate(class_names)
        if bool((kinds == kind).any())
    }
    return {
        "choice": name,
        "usage": _named(ways, usage),
        "sureness": 1 - single / most,
        "selectivity": max(0.0, float(_entropy(usage)) - single) / most,
        "by_class": by_class,
    }


def horizons(model: VocabSpace) -> dict[str, list[float]]:
    """How many tokens back each memory reaches, by path; one number for each of its heads."""
    return {
        f"{name}.{memory}": values.flatten().tolist()
        for name, part in model.named_modules()
        if isinstance(part, Readable)
        for memory, values in part.horizons().items()
    }


def _entropy(p: Float[Tensor, "*axes ways"]) -> Float[Tensor, "*axes"]:
    return -torch.special.xlogy(p, p).sum(-1)


def _named(ways: Sequence[str], shares: Tensor) -> dict[str, float]:
    return dict(zip(ways, shares.tolist(), strict=True))
