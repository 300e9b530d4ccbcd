"""Experiment E1's toy: eight clusters in 16 dimensions, told apart through one of 16 codes."""

import torch
from torch import nn

from crystalline.interpret.information import adjusted_mutual_information, contingency
from crystalline.quantizers.bottlenecks import CrystallineBottleneck, Temperature

ROUNDS = 2000
WEIGHTS = {"codebook": 1.0, "commitment": 0.25, "compression": 0.01}


def learned(bottleneck, temperature, seed=0):
    """Active codes, and the adjusted mutual information of code and cluster, on new points."""
    torch.manual_seed(seed)
    centres = 2 * torch.randn(8, 16)
    into, out = nn.Linear(16, 16), nn.Linear(16, 16)
    parts = nn.ModuleList([bottleneck, temperature, into, out]).train()
    optimizer = torch.optim.Adam(parts.parameters(), lr=3e-3)

    def draw(count):
        clusters = torch.randint(8, (count,))
        return clusters, centres[clusters] + 0.3 * torch.randn(count, 16)

    def answer(points):
        inputs = into(points)[None]
        return bottleneck(inputs, temperature(inputs[:, :, None])[..., 0])

    for _ in range(ROUNDS):
        _, points = draw(64)
        found = answer(points)
        loss = (out(found.quantized[0]) - points).square().mean()
        loss = loss + sum(WEIGHTS[name] * value for name, value in found.losses.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    parts.eval()
    clusters, points = draw(2000)
    codes = answer(points).codes.indices[0, :, 0]
    table = contingency(codes.numpy(), clusters.numpy())
    return len(codes.unique()), adjusted_mutual_information(table)


def test_the_bottleneck_finds_the_clusters():
    temperature = Temperature(1, 16, init=0.05, minimum=0.005)
    active, information = learned(CrystallineBottleneck(16, 16, 1), temperature)
    assert active >= 8
    assert information >= 0.95
