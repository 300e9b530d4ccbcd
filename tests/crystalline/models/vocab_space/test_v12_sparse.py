"""What is special about v12, and about v13, which is v12 after a learned start."""

import pytest
import torch

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.slices import slice_pairs
from crystalline.models.vocab_space.v12_sparse import Sparse, waves
from crystalline.models.vocab_space.v13_embed import Embed


def sets(num_steps, width, vocab_size=1024, addressing="contiguous"):
    pairs = slice_pairs(vocab_size, num_steps, width, addressing)
    return [set(a.index.tolist()) for a, _ in pairs], [set(b.index.tolist()) for _, b in pairs]


def test_eight_published_steps_make_three_waves_and_permuted_ones_none():
    assert waves(*sets(8, 256)) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert waves(*sets(8, 256, addressing="permuted")) == [[step] for step in range(8)]


def test_a_step_is_never_ahead_of_one_that_reads_what_it_writes():
    # 1 follows 0. 2 would fit into the first wave, but for 1, which has to read what was there.
    assert waves([{0}, {1}, {2}], [{1}, {5}, {1}]) == [[0], [1, 2]]


@pytest.mark.parametrize(("num_steps", "width"), [(8, 8), (12, 3), (9, 2)])
def test_waves_are_the_steps_in_turn(num_steps, width):
    torch.manual_seed(0)
    model = Sparse(
        32, 20, num_steps, width, addressing="contiguous", mode="faithful", state_dtype="fp32"
    ).eval()
    order = waves(*sets(num_steps, width, 32))
    assert any(len(wave) > 1 for wave in order)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    blocks = {}
    for wave, step in zip(order, model.steps, strict=True):
        blocks |= dict(zip(wave, step.blocks, strict=True))
    x = model.start(torch.randint(32, (2, 20)))
    in_waves = in_turn = x
    for step in model.steps:
        in_waves = step(in_waves)
    for number in range(num_steps):
        in_turn = blocks[number](in_turn)
    torch.testing.assert_close(in_waves, in_turn, atol=1e-5, rtol=1e-4)
    in_reverse = x
    for number in reversed(range(num_steps)):
        in_reverse = blocks[number](in_reverse)
    assert not torch.allclose(in_reverse, in_turn, atol=1e-2)


def test_the_start_of_the_control_is_a_table_of_bigrams_that_the_head_reads():
    model = Embed(
        32, 20, d_embed=5, num_steps=2, slice_width=4, readout="state", mode="repaired"
    ).eval()
    with torch.no_grad():
        model.embedding.mul_(1e4)  # so far above the epsilon of `rms` that it can be taken twice
    tokens = torch.randint(32, (2, 7))
    table = model.embedding @ model.expansion
    torch.testing.assert_close(model.start(tokens), rms(table[tokens]))
    with torch.no_grad():
        for step in model.steps:
            for block in step.blocks:
                block.gain.zero_()
    bigrams = 30 * torch.tanh(rms(table[tokens]) / 30)
    torch.testing.assert_close(model(tokens).logits, bigrams, atol=1e-5, rtol=1e-5)
