"""What is special about v16: branches, columns that vote, columns that inhibit each other."""

import pytest
import torch
from torch.nn.functional import gelu

from crystalline.models.vocab_space.slices import slice_pairs
from crystalline.models.vocab_space.v16_columnar import Branches, Columnar, Vote


def small(**options):
    torch.manual_seed(0)
    model = Columnar(32, 20, num_columns=2, num_steps=3, slice_width=12, **options).eval()
    with torch.no_grad():
        for parameter in model.steps.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def columns_of(model, start):
    columns = [start] * model.num_columns
    for number, block in enumerate(model.steps):
        columns[number % 2] = block(columns[number % 2])
    return columns


def test_branches_are_small_mlps_weighted_by_a_gate():
    torch.manual_seed(0)
    branches = Branches(6, 2, 4, "gelu")
    with torch.no_grad():
        for parameter in branches.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    g = torch.randn(2, 3, 6)
    shares = (g @ branches.gate.weight.T + branches.gate.bias).softmax(-1)
    expected = torch.zeros_like(g)
    for b in range(4):
        part = slice(3 * b, 3 * b + 3)
        hidden = gelu(g @ branches.up.weight[part].T + branches.bias)
        expected += shares[..., b, None] * (hidden @ branches.down.weight[:, part].T)
    torch.testing.assert_close(branches(g), expected)
    assert torch.equal(branches.listing(g)["branches"].shares, shares)


def test_branches_share_the_hidden_width_evenly_or_not_at_all():
    with pytest.raises(ValueError, match=r"model\.num_branches must divide .* = 24, got 5"):
        Branches(12, 2, 5, "gelu")


def test_published_columns_go_their_own_ways_and_are_added_by_fixed_shares():
    model = small(mode="faithful", state_dtype="fp32")
    with torch.no_grad():
        model.vote.confidence.copy_(torch.tensor([0.5, -1.0]))
        model.vote.inhibition.strength.copy_(torch.tensor([[0.1, 0.4], [-0.3, 0.2]]))
    tokens = torch.randint(32, (2, 9))
    start = model.start(tokens)
    kappa = model.vote.confidence
    shares = (kappa - model.vote.inhibition.strength @ kappa).softmax(-1)
    voted = sum(s * x for s, x in zip(shares, columns_of(model, start), strict=True))
    torch.testing.assert_close(model(tokens).logits, model.head(voted), atol=1e-4, rtol=1e-4)


def test_published_inhibition_learns_nothing_while_confidences_are_zero():
    model = small(mode="faithful").train()
    model(torch.randint(32, (2, 9))).logits.square().mean().backward()
    assert model.vote.inhibition.strength.grad is not None
    assert model.vote.confidence.grad is not None
    assert model.vote.inhibition.strength.grad.abs().max() == 0
    assert model.vote.confidence.grad.abs().max() > 0


def test_a_vote_by_position_hears_what_each_column_has_written():
    vote = Vote(4, 2, "per_position", "per_step")
    start = torch.randn(1, 2, 4)
    first = start + torch.tensor([1.0, 0.0, 0.0, 0.0])
    second = start + torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    with torch.no_grad():
        vote.evidence.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.5, 0, 0]]))
    # rms leaves 2 of a single coordinate of four.
    expected = torch.tensor([[[2.0, 0.0], [2.0, 3.0]]]).softmax(-1)
    torch.testing.assert_close(vote.shares([first, second], start), expected, atol=1e-4, rtol=1e-4)
    voted = start + expected[..., :1] * (first - start) + expected[..., 1:] * (second - start)
    torch.testing.assert_close(vote([first, second], start), voted, atol=1e-4, rtol=1e-4)


def test_columns_take_from_each_other_what_the_others_have_written():
    vote = Vote(4, 2, "static", "per_step")
    with torch.no_grad():
        vote.inhibition.strength.copy_(torch.tensor([[9.0, 0.5], [0.25, 9.0]]))  # not of themselves
    start, one, two = torch.randn(3, 1, 2, 4)
    found = vote.inhibition([start + one, start + two], start)
    torch.testing.assert_close(found[0], start + one - 0.5 * two)
    torch.testing.assert_close(found[1], start + two - 0.25 * one)


def test_inhibition_by_step_reaches_later_steps():
    model = small(mode="repaired")
    tokens = torch.randint(32, (2, 9))
    alone = model(tokens, codes=True)
    with torch.no_grad():
        model.vote.inhibition.strength.fill_(0.7)
    together = model(tokens, codes=True)
    assert list(alone.codes) == [f"words.{i}" for i in range(6)]
    for number in (0, 1):  # before the columns have met
        before, after = (o.codes[f"words.{number}"].indices for o in (alone, together))
        assert torch.equal(before, after)
    assert not torch.allclose(alone.logits, together.logits, atol=1e-3)


def test_narrow_published_columns_cannot_write_to_the_word_they_saw():
    def share(width):
        pairs = slice_pairs(1024, 12, width, "contiguous")
        steps = [(set(a.index.tolist()), set(b.index.tolist())) for a, b in pairs]
        found = set()
        for column in range(4):
            for word in range(1024):
                known = {word}
                for read, write in steps[column::4]:
                    if read & known:
                        known = known | write
                        found |= {word} & write
        return len(found) / 1024

    assert share(128) == 0
    assert round(share(256), 2) == 0.66
