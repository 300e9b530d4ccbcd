"""Parts of steps."""

from typing import Any

import pytest
import torch

from crystalline.models.vocab_space.blocks import Added, DecayMemory, Residual, linear


def memory(logits: Any, scale: str = "none", width: int = 6) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    q, k, u = (linear(9, width, std=1.0) for _ in range(3))
    built = DecayMemory(
        q, k, u, linear(width, 9), d_key=width, d_value=width, scale=scale, decay_logit=logits
    )
    return built, torch.randn(2, 8, 9)


@pytest.mark.parametrize("scale", ["none", "inv_dim", "normalized"])
def test_heads_are_memories_side_by_side(scale):
    both, x = memory([0.5, 3.0], scale)
    read = both.recall(x)
    for head, logit in enumerate((0.5, 3.0)):
        part = slice(3 * head, 3 * head + 3)
        alone, _ = memory(logit, scale, 3)
        for name in ("queries", "keys", "values"):
            getattr(alone, name).weight.data = getattr(both, name).weight.data[part]
        torch.testing.assert_close(read[..., part], alone.recall(x))


def test_cosines_are_of_whole_vectors():
    both, x = memory([0.5, 3.0], "cosine")
    plain, _ = memory([0.5, 3.0], "none")
    both.queries.weight.data *= 7
    plain.queries = torch.nn.Sequential(plain.queries, torch.nn.RMSNorm(6, 0.0))
    plain.keys = torch.nn.Sequential(plain.keys, torch.nn.RMSNorm(6, 0.0))
    torch.testing.assert_close(both.recall(x), plain.recall(x) / 6)


def test_a_shift_is_of_the_logit():
    one, x = memory(1.0)
    other, _ = memory(3.0)
    torch.testing.assert_close(one(x, None, torch.tensor([2.0])), other(x))


def test_heads_continue_from_what_they_remember():
    both, x = memory([0.5, 3.0], "normalized")
    cache = both.init_cache(2)
    parts = [both(part, cache) for part in x.split([3, 1, 4], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), both(x))


def test_what_is_added_is_of_the_normed_state():
    block, x = memory(3.0)
    unit = x / x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(Added(block)(x), x + block(unit), atol=1e-5, rtol=1e-5)
    residual = Residual(block, 9)
    residual.gain.data = torch.arange(9.0)
    expected = x + torch.arange(9.0) * block(unit)
    torch.testing.assert_close(residual(x), expected, atol=1e-5, rtol=1e-5)
