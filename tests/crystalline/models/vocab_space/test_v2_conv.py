"""What is special about v2."""

import pytest
import torch
from torch.nn.functional import gelu, one_hot

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.v2_conv import Conv
from tests.crystalline.models.vocab_space.test_variants import make, shaken


def test_one_step_is_what_its_formula_says():
    model = shaken(make("v2_conv", num_steps=1, mode="faithful", state_dtype="fp32"))
    tokens = torch.randint(32, (1, 6))
    x = rms(one_hot(tokens, 32).float())
    across, within = model.steps[0].parts
    seen = rms(x)
    filtered = across.block.conv.bias.repeat(1, 6, 1)
    for t in range(6):
        for j in range(min(3, t + 1)):
            filtered[0, t] += across.block.conv.weight[:, 0, 2 - j] * seen[0, t - j]
    x = x + across.gain * filtered
    op = within.block
    weights = (op.reader.basis() @ op.reader.weight.T).softmax(0)
    hidden = gelu(rms(x) @ weights @ op.mix.weight.T + op.bias)
    written = hidden @ (op.writer.basis() @ op.writer.weight.T).T
    x = x + within.gain * op.gain * written
    expected = 30 * torch.tanh(model.head.gamma * rms(x) / 30)
    torch.testing.assert_close(model(tokens).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_word_is_felt_as_far_as_the_kernels_reach_and_no_farther():
    model = shaken(make("v2_conv", mode="repaired"), 0.5).eval()  # 3 steps of 3 taps: 6 back
    tokens = torch.randint(32, (1, 20))
    other = tokens.clone()
    other[0, 5] = (other[0, 5] + 3) % 32
    same = (model(tokens).logits == model(other).logits).all(-1)[0]
    assert same.nonzero().flatten().tolist() == [*range(5), *range(12, 20)]


def test_states_keep_their_size_at_the_start():
    model = make("v2_conv", 256, small=False, mode="faithful", state_dtype="fp32").eval()
    x = model.start(torch.randint(256, (1, 64)))
    for step in model.steps:
        x = step(x)
    assert 1 <= x.square().mean().sqrt() < 1.05


def test_maps_hold_what_a_word_makes_of_itself():
    model = shaken(make("v2_conv"))
    part = model.steps[1].parts[0]
    maps = part.word_maps(32)
    assert [map.gap for map in maps.values()] == [1, 2, 3]
    word = torch.zeros(1, 3, 32)
    word[0, 0, 7] = 1
    pushed = part.gain * (part.block(word) - part.block.conv.bias)
    torch.testing.assert_close(pushed[0, 2], maps["tap.2"].rows(7, 8)[0])


def test_a_kernel_of_no_taps_is_refused():
    with pytest.raises(ValueError, match=r"model\.kernel must be at least 1"):
        Conv(32, 10, kernel=0, harmonics=4)
