"""Bands of the Fourier basis."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from crystalline.models.vocab_space.fourier import fourier_basis
from crystalline.models.vocab_space.v6_wave import Wave

SIZES: dict[str, Any] = {"channels": 5, "bands": (1, 2, 3)}
SLICES = (slice(0, 2), slice(2, 6), slice(6, 12))
"""Columns of the bands."""


def shaken(**options: Any) -> Any:
    torch.manual_seed(0)
    model = Wave(16, 12, **SIZES, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def norm(x):
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def retrieved(memory, x, phi, read):
    def channels(reader):
        weights = phi @ reader.weight.T
        return x @ (weights.softmax(0) if read == "softmax" else weights)

    q, k, u = (channels(reader) for reader in (memory.queries, memory.keys, memory.values))
    found, decay = torch.zeros_like(u), memory.decay_logit.sigmoid()
    for t in range(x.shape[1]):
        for s in range(t):
            score = (q[:, t] * k[:, s]).sum(-1, keepdim=True)
            found[:, t] += decay ** (t - s - 1) * score * u[:, s]
    return found


@pytest.mark.parametrize("read", ["softmax", "linear"])
def test_a_step_is_what_its_formula_says(read):
    model = shaken(num_steps=1, mode="faithful", state_dtype="fp32", fourier_read=read)
    phi = fourier_basis(16, 6)
    low, middle, high = (phi[:, part] for part in SLICES)
    tokens = torch.randint(16, (2, 6))
    x = 4.0 * F.one_hot(tokens, 16)
    across, within = (part.block for part in model.steps[0].parts)

    long = retrieved(across.slow, norm(x), low, read)
    short = retrieved(across.fast, norm(x), high, read)
    short = (long @ across.gate.weight.T + across.gate.bias).sigmoid() * short
    slow = across.slow.gain * long @ across.slow.output.weight @ low.T
    fast = across.fast.gain * short @ across.fast.output.weight @ high.T
    x = x + across.gains[0] * slow + across.gains[1] * fast

    hidden = []
    for op, band in zip(within.ops, (low, middle, high), strict=True):
        weights = band @ op.reader.weight.T
        weights = weights.softmax(0) if read == "softmax" else weights
        hidden.append(F.gelu(norm(x) @ weights @ op.mix.weight.T + op.bias))
    hidden[2] = (hidden[0] @ within.gate.weight.T + within.gate.bias).sigmoid() * hidden[2]
    for i, (op, band) in enumerate(zip(within.ops, (low, middle, high), strict=True)):
        x = x + within.gains[i] * op.gain * hidden[i] @ op.writer.weight @ band.T
    expected = 30 * torch.tanh(model.head.gamma * norm(x) / 30)
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_gates_start_half_open_and_memories_slow_and_fast():
    step: Any = Wave(16, 12, **SIZES).steps[0]
    across, within = (part.block for part in step.parts)
    for gate in (across.gate, within.gate):
        assert gate.bias.abs().max() == 0
        assert gate.weight.std() < 0.04
    assert across.slow.decay_logit.item() == 4
    assert across.fast.decay_logit.item() == 2


def test_as_published_it_starts_as_the_identity():
    """Channels that are averages over all words know next to nothing of the word."""
    tokens = torch.randint(1024, (2, 32))
    change = {}
    for read in ("softmax", "linear"):
        torch.manual_seed(0)
        model = Wave(1024, 32, mode="faithful", state_dtype="fp32", fourier_read=read)
        start = last = model.start(tokens)  # of root mean square 1
        with torch.no_grad():
            for step in model.steps:
                last = step(last)
        change[read] = (last - start).square().mean().sqrt()
    assert 0 < change["softmax"] < 0.02 < 10 * change["softmax"] < change["linear"]


def test_there_are_three_bands():
    with pytest.raises(ValueError, match=r"model\.bands must be three numbers above 0"):
        Wave(16, 12, bands=(1, 2))
