from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError

from crystalline.layers.attention import CausalSelfAttention, attend
from crystalline.layers.rotary import Rotary


def test_attention_equals_softmax_over_the_past():
    torch.manual_seed(0)
    layer = CausalSelfAttention(8, 2, 10)
    x = torch.randn(1, 5, 8)
    q, k, v = (part.view(1, 5, 2, 4).transpose(1, 2) for part in layer.qkv(x).chunk(3, -1))
    scores = layer.rotary(q) @ layer.rotary(k).mT / 2
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), float("-inf"))
    expected = layer.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


def test_without_itself_a_position_reads_the_past_or_nothing():
    torch.manual_seed(0)
    layer = CausalSelfAttention(8, 2, 10, reach="past")
    x = torch.randn(1, 5, 8)
    q, k, v = (part.view(1, 5, 2, 4).transpose(1, 2) for part in layer.qkv(x).chunk(3, -1))
    weights = (layer.rotary(q) @ layer.rotary(k).mT / 2).exp().tril(-1)
    read = weights @ v / (1 + weights.sum(-1, keepdim=True))  # 1: a key of zeros, read as zeros
    torch.testing.assert_close(layer.mix(x), read.transpose(1, 2).flatten(2))
    assert layer.mix(x)[:, 0].eq(0).all()


def test_heads_one_behind_say_what_the_position_before_reads():
    torch.manual_seed(0)
    layer, plain = (CausalSelfAttention(8, 2, 10, reach=reach) for reach in ("before", "self"))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 5, 8)
    shifted = torch.cat([torch.zeros(1, 1, 8), x[:, :-1]], 1)
    torch.testing.assert_close(layer.mix(x), plain.mix(shifted))
    assert torch.autograd.functional.jacobian(layer.mix, x)[0, 3, :, 0, 3:].eq(0).all()


@pytest.mark.parametrize("start", [0, 4])
def test_neighbouring_heads_share_keys_and_values_in_groups(start):
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, 6, 3, 4),
        torch.randn(2, 2, 3 + start, 4),
        torch.randn(2, 2, 3 + start, 4),
    )
    for head in range(6):
        shared = head // 3
        scores = q[:, head] @ k[:, shared].mT / 2
        past = torch.ones(3, 3 + start).tril(start).bool()
        expected = scores.masked_fill(~past, float("-inf")).softmax(-1) @ v[:, shared]
        torch.testing.assert_close(attend(q, k, v, start)[:, head], expected)


def test_rotary_scores_depend_on_distance_alone():
    rotary = Rotary(6, 20)
    q, k = torch.randn(1, 1, 1, 6), torch.randn(1, 1, 1, 6)
    near = rotary(q, 7) @ rotary(k, 4).mT
    far = rotary(q, 15) @ rotary(k, 12).mT
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)


def test_rotary_keeps_lengths():
    x = torch.randn(2, 3, 9, 6)
    torch.testing.assert_close(Rotary(6, 9)(x).norm(dim=-1), x.norm(dim=-1))


def test_odd_heads_and_odd_counts_are_refused():
    with pytest.raises(ValueError, match="even"):
        Rotary(5, 4)
    with pytest.raises(ValueError, match="num_heads must divide"):
        CausalSelfAttention(10, 3, 4)


def test_an_unknown_reach_is_refused():
    unknown: Any = "next"
    with pytest.raises((ValueError, TypeCheckError), match="next"):
        CausalSelfAttention(8, 2, 10, reach=unknown)
