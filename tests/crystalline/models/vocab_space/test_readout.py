"""What the head reads of the last state and the first."""

import pytest
import torch
from torch import nn

from crystalline.models.vocab_space.model import VocabSpace
from tests.crystalline.models.vocab_space.test_variants import EACH, MODES, make, shaken


class Plus(nn.Module):
    """x + 2 in the first word."""

    def forward(self, x, cache=None):
        return x + torch.tensor([2.0, 0.0, 0.0, 0.0])


class Thrice(nn.Module):
    """Three times x."""

    def forward(self, x, cache=None):
        return 3 * x


@pytest.mark.parametrize(
    ("readout", "steps", "read"),
    [  # sqrt(4) at word 1, then 2 at word 0, then all of it three times
        ("state", [Plus, Thrice], [6, 6, 0, 0]),
        ("delta", [Plus, Thrice], [6, 4, 0, 0]),
        ("learned_beta", [Plus, Thrice], [6, 6 - 2 * 0.25, 0, 0]),
        ("forgotten", [Plus, Thrice], [6, 0, 0, 0]),
        ("forgotten", [Thrice, Plus], [2, 4, 0, 0]),
        ("forgotten", [], [0, 2, 0, 0]),
    ],
)
def test_what_the_head_reads_by_hand(readout, steps, read):
    model = VocabSpace(4, 9, [step() for step in steps], readout=readout, num_words=2)
    if model.head.beta is not None:
        nn.init.constant_(model.head.beta, 0.25)
    found = model(torch.tensor([[1]]), codes=True)
    expected = torch.tensor([[read]], dtype=torch.float32)
    torch.testing.assert_close(found.logits, model.head(expected))
    if steps == [Plus, Thrice] and readout == "forgotten":
        assert found.codes["words.0"].indices[0, 0, 0] == 0  # lists, too, are without the start


@EACH
@MODES
def test_what_is_forgotten_is_in_no_state_from_the_second_pass_on(variant, mode):
    model = shaken(make(variant, mode=mode, readout="forgotten"), 0.05).eval()
    tokens, given, made = torch.randint(32, (2, 9)), [], []

    def keep(_, inputs, output):
        given.append(inputs[0])
        made.append(output)

    for step in model.steps:
        step.register_forward_hook(keep)
    with torch.no_grad():
        logits = model(tokens).logits
    start, columns = model.start(tokens), model.num_columns
    assert all(torch.equal(x, start) for x in given[:columns])
    if variant != "v16_columnar" or mode == "faithful":  # else columns inhibit each other between
        for first, then in zip(made[:columns], given[columns : 2 * columns], strict=True):
            assert torch.equal(then, first - start)
    assert logits.isfinite().all()


def test_of_columns_each_forgets_the_start_before_they_vote():
    model = shaken(make("v16_columnar", readout="forgotten", mode="repaired"), 0.05).eval()
    seen = []
    model.vote.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    tokens = torch.randint(32, (2, 9))
    logits = model(tokens).logits
    [(columns, start, voted)] = seen
    assert not start.any()
    shares = model.vote.shares(columns, start)
    mean = sum(shares[..., i, None] * x for i, x in enumerate(columns))
    torch.testing.assert_close(voted, mean)
    torch.testing.assert_close(logits, model.head(mean))


@pytest.mark.parametrize("variant", ["v1_attention", "v8_graph", "v9_meta", "v16_columnar"])
def test_generation_forgets_the_start_of_each_position(variant):
    model = shaken(make(variant, readout="forgotten"), 0.05).eval()
    tokens, cache = torch.randint(32, (2, 12)), model.init_cache(2)
    parts = [model.step(tokens[:, :5], cache)]
    parts += [model.step(tokens[:, t : t + 1], cache) for t in range(5, 12)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens).logits, atol=2e-4, rtol=1e-4)
