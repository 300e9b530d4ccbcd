"""What is special about v12: slices, and steps that make one pass."""

import pytest
import torch
from torch.nn.functional import one_hot

from crystalline.models.vocab_space.slices import slice_pairs
from crystalline.models.vocab_space.v12_sparse import Sparse, waves


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


@pytest.mark.parametrize("addressing", ["contiguous", "permuted"])
@pytest.mark.parametrize("readout", ["state", "delta"])
def test_without_a_step_the_head_reads_the_start(addressing, readout):
    model = Sparse(32, 20, 0, 8, addressing=addressing, readout=readout)
    tokens = torch.randint(32, (2, 7))
    output = model(tokens, codes=True)
    own = one_hot(tokens, 32) if readout == "state" else torch.zeros(2, 7, 32)
    torch.testing.assert_close(output.logits, 30 * torch.tanh(32**0.5 * own / 30))
    assert output.codes == {}
    assert model.word_maps() == {}
