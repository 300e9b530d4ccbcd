"""Experiment E1's toy: eight clusters in 16 dimensions, told apart through one of 16 codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crystalline.interpret.information import adjusted_mutual_information, contingency
from crystalline.quantizers.bottlenecks.base import Bottleneck, BottleneckOutput

WIDTH, CLUSTERS, CODES = 16, 8, 16
WEIGHTS = {"codebook": 1.0, "commitment": 0.25, "compression": 0.01}
"""Of the bottleneck's losses; the reconstruction's is 1."""
_BATCH, _JUDGED = 64, 2000


class Found(NamedTuple):
    """What a bottleneck knows of the clusters, on points that it has not seen."""

    active_codes: int
    """Different codes chosen."""
    ami: float
    """Adjusted mutual information of code and cluster."""


def learn_clusters(
    build: Callable[[], tuple[Bottleneck, nn.Module]], rounds: int, seed: int
) -> Found:
    """Reconstruct points through the bottleneck, a linear map on either side; then ask its codes.

    Centres are 2 N(0, 1), points lie 0.3 N(0, 1) around them. The random state is that of before
    afterwards.

    Args:
        build: A new bottleneck, `WIDTH` wide, `CODES` codes, k = 1, and its temperature, for one
            group.
        rounds: Of 64 points each.
        seed: Of codes, centres, maps, points and noise.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        bottleneck, temperature = build()
        torch.manual_seed(seed)  # another bottleneck meets the same points
        centres = 2 * torch.randn(CLUSTERS, WIDTH)
        into, out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        parts = nn.ModuleList([bottleneck, temperature, into, out]).train()
        optimizer = torch.optim.Adam(parts.parameters(), lr=3e-3)

        def draw(count: int) -> tuple[Tensor, Tensor]:
            clusters = torch.randint(CLUSTERS, (count,))
            return clusters, centres[clusters] + 0.3 * torch.randn(count, WIDTH)

        def answer(points: Tensor) -> BottleneckOutput:
            inputs = into(points)[None]
            return bottleneck(inputs, temperature(inputs[:, :, None])[..., 0])

        for _ in range(rounds):
            _, points = draw(_BATCH)
            found = answer(points)
            loss = (out(found.quantized[0]) - points).square().mean()
            loss = loss + sum(WEIGHTS[name] * value for name, value in found.losses.items())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        parts.eval()
        clusters, points = draw(_JUDGED)
        with torch.no_grad():
            chosen = answer(points).codes
        assert chosen is not None
        codes = chosen.indices[0, :, 0]
    table = contingency(codes.numpy(), clusters.numpy())
    return Found(len(codes.unique()), adjusted_mutual_information(table))
