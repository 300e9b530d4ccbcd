"""Which words steps read and write, and the block between."""

import pytest
import torch
from torch.nn.functional import gelu

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.slices import Slice, SliceBlock, SliceMLP, slice_pairs


def sets(pairs):
    return [(set(a.index.tolist()), set(b.index.tolist())) for a, b in pairs]


def reached(word, steps):
    """Words that can be written knowing `word`."""
    known, written = {word}, set()
    for read, write in steps:
        if read & known:
            known, written = known | write, written | write
    return written


def test_contiguous_slices_are_windows_and_leave_words_out_of_reach():
    steps = sets(slice_pairs(1024, 8, 256, "contiguous"))
    assert steps[7] == (set(range(896, 1024)) | set(range(128)), set(range(384, 640)))
    assert all(sum(word in read for read, _ in steps) == 2 for word in range(1024))
    count = [len(reached(word, steps)) for word in range(1024)]
    assert (min(count), sum(count) / 1024, max(count)) == (384, 752, 1024)
    assert {w for w in range(1024) if w not in reached(w, steps)} == set(range(640, 1024))


def test_permuted_slices_reach_every_word_from_every_word():
    steps = sets(slice_pairs(1024, 8, 256, "permuted", seed=3))
    for first in (0, 4):
        for side in (0, 1):
            round_of_four = [pair[side] for pair in steps[first : first + 4]]
            assert set.union(*round_of_four) == set(range(1024))
            assert sum(map(len, round_of_four)) == 1024
    assert all(len(reached(word, steps)) == 1024 for word in range(1024))
    assert steps == sets(slice_pairs(1024, 8, 256, "permuted", seed=3))
    assert steps != sets(slice_pairs(1024, 8, 256, "permuted", seed=4))


def test_permuted_slices_of_any_width_hold_every_word_once():
    for read, write in slice_pairs(32, 7, 12, "permuted"):
        assert len(read.index.unique()) == len(write.index.unique()) == 12


def test_a_width_that_no_slice_can_have_is_an_error():
    with pytest.raises(ValueError, match=r"model\.slice_width must lie in \[1, 32\], got 33"):
        slice_pairs(32, 2, 33, "permuted")


def block():
    torch.manual_seed(0)
    built = SliceBlock(
        Slice(torch.tensor([6, 1, 0])), Slice(torch.tensor([2, 6, 5])), SliceMLP(3, 2, "gelu"),
        "none",
    )  # fmt: skip
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return built


def test_a_block_is_what_its_formula_says():
    built = block()
    x = torch.randn(1, 5, 7)
    g = x[0][:, [6, 1, 0]]
    normed = rms(g)
    memory = built.memory
    q, k, u = (normed @ m.weight.T for m in (memory.queries, memory.keys, memory.values))
    decay = memory.decay_logit.sigmoid()
    read = torch.zeros(5, 3)
    for t in range(5):
        for s in range(t):
            read[t] += decay ** (t - s - 1) * (q[t] @ k[s]) / 3**0.5 * u[s]
    g = g + built.memory_gain * memory.gain * read @ memory.output.weight.T
    hidden = gelu(rms(g) @ built.mlp.up.weight.T + built.mlp.up.bias)
    expected = x[0].clone()
    expected[:, [2, 6, 5]] += built.gain / 3**0.5 * hidden @ built.mlp.down.weight.T
    torch.testing.assert_close(built(x)[0], expected, atol=1e-5, rtol=1e-4)


def test_slices_without_anything_in_them_have_a_finite_gradient():
    built = block()
    x = torch.zeros(1, 5, 7, requires_grad=True)
    built(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())


def test_addresses_are_not_saved():
    assert not [name for name in block().state_dict() if "index" in name]
