"""No look into the future: over several chunks of a memory, and in what is learned of noise.

Noise cannot be foretold: a model that does better than ln V on it sees the future.
"""

import math

import pytest
import torch
from torch import nn

from crystalline.layers import decay_attention, selective_attention
from crystalline.layers.decay_attention import chunks
from crystalline.models.vocab_space.blocks import Block, DecayMemory
from crystalline.verification.causality import first_leak
from tests.crystalline.models.vocab_space.test_variants import VARIANTS, make
from tests.selection import often

WORDS, LENGTH, BATCH, ROUNDS = 16, 24, 8, 40
FLOOR = math.log(WORDS)
UNCHUNKED = {  # without a memory that fades, or with one of which each key fades by itself
    "v1_attention faithful", "v1_attention repaired", "v2_conv faithful", "v2_conv repaired",
    "v14_adaptive faithful",
}  # fmt: skip
CASES = [f"{variant} {mode}" for variant in VARIANTS for mode in ("faithful", "repaired")]


class Reversed(Block):
    """Position t hears those after it, as if the mask were built of s - t."""

    def __init__(self, memory: nn.Module):
        super().__init__()
        self.memory = memory

    def forward(self, x, cache=None):
        return self.memory(x.flip(1)).flip(1)


def loss_on_noise(model):
    """Mean nats of the last 10 rounds, each on new tokens drawn evenly and independently."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=0.02)
    weights = model.loss_weights(0.5)
    losses = []
    torch.manual_seed(1)
    for _ in range(ROUNDS):
        tokens = torch.randint(WORDS, (BATCH, LENGTH))
        output = model(tokens[:, :-1])
        loss = output.cross_entropy(tokens[:, 1:]).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        (loss + sum(weights[name] * value for name, value in output.losses.items())).backward()
        optimizer.step()
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize("variant", ["v8_graph", "v9_meta"])
def test_with_the_mask_reversed_noise_is_foretold(variant):
    model = make(variant, WORDS, LENGTH)
    for step in model.steps:
        for part in step.parts:
            if isinstance(part.block, DecayMemory):
                part.block = Reversed(part.block)
    assert loss_on_noise(model) < FLOOR - 0.1


@pytest.mark.parametrize(
    "case", often(CASES, "v1_attention repaired", "v8_graph repaired", "v11_tpg repaired")
)
def test_as_shipped_it_is_not(case):
    variant, mode = case.split()
    assert loss_on_noise(make(variant, WORDS, LENGTH, mode=mode)) > FLOOR - 0.02


@pytest.mark.parametrize(
    "case", often(CASES, "v8_graph faithful", "v9_meta repaired", "v14_adaptive repaired")
)
def test_over_several_chunks_no_position_sees_a_later_one(case, monkeypatch):
    """Memories are summed in chunks where quadratic forms would cost more: at 150, not at 40."""
    variant, mode = case.split()
    lengths = []

    def noted(size, *parts):
        lengths.append(parts[0].shape[-2])
        return chunks(size, *parts)

    for layer in (decay_attention, selective_attention):
        monkeypatch.setattr(layer, "chunks", noted)
    assert first_leak(make(variant, context_length=150, mode=mode)) is None
    assert set(lengths) == (set() if case in UNCHUNKED else {150})
