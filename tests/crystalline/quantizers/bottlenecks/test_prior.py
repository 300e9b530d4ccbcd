"""Choices that count what a code costs to name."""

import pytest
import torch
import torch.nn.functional as F

from crystalline.quantizers.bottlenecks import CodebookFeatures, CrystallineBottleneck
from crystalline.quantizers.bottlenecks.prior import Prior, UsagePrior

KINDS = {
    "codebook_features": CodebookFeatures,
    "crystalline": lambda *sizes, **options: CrystallineBottleneck(*sizes, noise=False, **options),
}
TAU = torch.full((1, 1), 0.1)
DONE = torch.tensor(False)


def two_ways(build, weight):
    """A book whose codes 0 and 1 lie close, the first nearer to 80 % of what comes, in use."""
    book = build(4, 3, 1, prior=Prior(weight))
    codes = F.normalize(torch.tensor([[1.0, 0.2, -0.2, -1.0], [1.0, -0.2, 0.2, -1.0]]), dim=-1)
    book.codes.data[0] = torch.stack([codes[0], codes[1], -codes[0]])
    x = codes[(torch.arange(50) % 5 == 4).long()][None] + 0.01 * torch.randn(1, 50, 4)
    return book, x


@pytest.mark.parametrize("kind", KINDS)
def test_of_two_close_codes_the_more_used_one_takes_both_their_inputs(kind):
    for weight, used in ((0.0, [40, 10, 0]), (0.1, [50, 0, 0])):
        torch.manual_seed(0)
        book, x = two_ways(KINDS[kind], weight)
        for _ in range(300):
            book(x, TAU)
            book.end_round(DONE)
        chosen = book.eval()(x, TAU).codes.indices.flatten()
        assert torch.bincount(chosen, minlength=3).tolist() == used


@pytest.mark.parametrize("kind", KINDS)
def test_training_evaluation_and_bans_count_alike(kind):
    torch.manual_seed(0)
    book = KINDS[kind](6, 9, 2, prior=Prior(0.2))
    book.prior.usage.copy_(torch.rand(9).softmax(0))
    x = torch.randn(2, 20, 6)
    n = book.project(x).flatten(0, 1)
    expected = (F.normalize(n, dim=-1) @ F.normalize(book.codes[0], dim=-1).mT + book.bias()).topk(
        2
    )
    for training in (True, False):
        found = book.train(training)(x, TAU).codes.indices
        assert torch.equal(found.flatten(0, 1), expected.indices)
    nothing = torch.zeros(1, 9, dtype=torch.bool)
    assert torch.equal(book._without(book.project(x), TAU, nothing).flatten(0, 1), expected.indices)
    assert torch.equal(book.select(0, n), expected.indices[:, 0])


def test_usage_follows_choices_but_not_a_round_without_any_and_is_saved():
    prior = UsagePrior(4, Prior(0.5), decay=0.75)
    prior.end_round(torch.tensor([6, 2, 0, 0]))
    expected = 0.75 * 0.25 + 0.25 * torch.tensor([0.75, 0.25, 0.0, 0.0])
    torch.testing.assert_close(prior.usage, expected)
    prior.end_round(torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(prior.usage, expected)
    torch.testing.assert_close(prior.bias(), 0.5 * (4 * expected).log())
    for _ in range(200):
        prior.end_round(torch.tensor([8, 0, 0, 0]))
    assert prior.bias()[1] == pytest.approx(0.5 * torch.tensor(0.01).log().item())  # no further
    other = UsagePrior(4, Prior(0.5))
    other.load_state_dict(prior.state_dict())
    assert torch.equal(other.usage, prior.usage)
    prior.restart(torch.tensor([False, True, False, False]))
    assert prior.bias()[1] == 0


def test_a_revived_code_counts_as_used_evenly():
    torch.manual_seed(0)
    book, x = two_ways(CodebookFeatures, 0.1)
    for _ in range(100):
        book(x, TAU)
        book.end_round(DONE)
    assert book.bias()[0, 2] < -0.09
    book.relocate_codes(x, idle_positions=100, max_fraction=0.4)
    assert book.bias()[0, 2] == 0


def test_a_prior_with_a_start_grows_from_there_and_is_saved_as_far_as_it_is():
    book = CodebookFeatures(4, 2, 1, prior=Prior(0.5, start=0.4))
    book.prior.usage.copy_(torch.tensor([0.75, 0.25]))
    whole = 0.5 * torch.tensor([[1.5, 0.5]]).log()
    for progress, share in ((0.0, 0.0), (0.4, 0.0), (0.65, 0.5), (0.9, 1.0), (1.0, 1.0)):
        book.begin_round(progress)
        torch.testing.assert_close(book.bias(), share * whole)
    book.begin_round(0.65)
    other = CodebookFeatures(4, 2, 1, prior=Prior(0.5, start=0.4))
    other.load_state_dict(book.state_dict())
    assert torch.equal(other.bias(), book.bias())


def test_codes_that_have_a_share_are_favoured_alike():
    prior = UsagePrior(4, Prior(0.5, share=0.25))
    prior.usage.copy_(torch.tensor([0.6, 0.3, 0.08, 0.02]))
    expected = 0.5 * torch.tensor([1.0, 1.0, 0.32, 0.08]).log()
    torch.testing.assert_close(prior.bias(), expected)


@pytest.mark.parametrize(("name", "value"), [("weight", -0.1), ("start", 0.9), ("share", 0.0)])
def test_a_wrong_value_is_named(name, value):
    with pytest.raises(ValueError, match=f"prior_{name}"):
        Prior(**({"weight": 0.1} | {name: value}))
