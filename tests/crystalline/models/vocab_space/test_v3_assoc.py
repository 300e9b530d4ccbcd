"""What is special about v3."""

import pytest
import torch
from torch.nn.functional import one_hot

from crystalline.models.vocab_space.blocks import rms
from crystalline.models.vocab_space.v3_assoc import Assoc
from tests.crystalline.models.vocab_space.test_variants import make, shaken


def test_the_memory_is_what_its_formula_says():
    model = shaken(make("v3_assoc", mode="faithful")).double()
    block = model.steps[0].parts[0].block
    basis = block.basis()
    x = rms(one_hot(torch.randint(32, (1, 6)), 32).double())
    q, k, u = (x[0] @ basis @ map.weight.T for map in (block.queries, block.keys, block.values))
    decay = block.decay_logit.sigmoid()
    read = torch.zeros_like(u)
    for t in range(6):
        for s in range(t):
            read[t] += decay ** (t - s - 1) * (q[t] @ k[s]) * u[s]
    expected = block.gain * read @ (basis @ block.output.weight.T).T
    torch.testing.assert_close(block(x)[0], expected, atol=1e-5, rtol=1e-4)


def rms_of_states(mode):
    model = make("v3_assoc", 256, 64, small=False, mode=mode, state_dtype="fp32").eval()
    x = model.start(torch.randint(256, (1, 64)))
    for step in model.steps:
        x = step(x)
    return x.square().mean().sqrt()


def test_states_grow_without_bound_unless_scores_are_scaled():
    assert rms_of_states("faithful") > 20
    assert rms_of_states("repaired") < 2


@pytest.mark.parametrize("part", [0, 1])
def test_what_is_written_has_the_rank_of_the_basis(part):
    model = shaken(make("v3_assoc", 64, harmonics=4, channels=16, basis="fourier"))
    written = model.steps[0].parts[part].block(torch.randn(1, 40, 64))[0]
    assert torch.linalg.matrix_rank(written, rtol=1e-5) == 8
    assert written.mean(-1).abs().max() < 1e-5 * written.abs().max()


def test_more_harmonics_than_words_hold_are_refused():
    with pytest.raises(ValueError, match=r"model\.harmonics must lie in \[1, 15\]"):
        Assoc(32, 10, harmonics=16)
