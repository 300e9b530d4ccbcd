"""The usage term of a small batch is that of the latest rounds (spec section 5)."""

import math

import pytest
import torch

from crystalline.quantizers.bottlenecks import CrystallineBottleneck
from crystalline.quantizers.bottlenecks.assignment import assign
from crystalline.quantizers.bottlenecks.mean_assignment import MeanAssignment

K, GO_ON = 32, torch.tensor(False)


def entropy(mean: torch.Tensor) -> float:
    return float(torch.special.entr(mean).sum() / math.log(K))


def rounds(number: int, positions: int, passes: int = 1, seed: int = 0):
    """Sharp assignments, every code equally likely, a batch of each round in passes."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        chosen = torch.randint(K, (passes, positions // passes), generator=generator)
        yield torch.nn.functional.one_hot(chosen, K).float().mean(1)


def test_a_small_batch_alone_looks_unused_and_with_the_rounds_before_it_does_not():
    usage = MeanAssignment(K, 1)
    for (mean,) in rounds(200, positions=8):
        estimate = usage(mean, 8)
        usage.end_round(GO_ON)
    assert entropy(mean) < math.log(8) / math.log(K) + 1e-6
    assert entropy(estimate) > 0.97
    assert float(estimate.sum()) == pytest.approx(1, abs=1e-5)


def test_a_batch_that_is_large_enough_stands_for_itself_to_the_last_bit():
    usage = MeanAssignment(K, 2)
    for (mean,) in rounds(3, positions=5 * K):  # 10 K choices at two a position
        assert torch.equal(usage(mean, 5 * K), mean)
        usage.end_round(GO_ON)


def test_the_first_round_is_its_own_mean():
    ((mean,),) = rounds(1, positions=8)
    assert torch.allclose(MeanAssignment(K, 1)(mean, 8), mean)


def test_the_gradient_is_whole_and_that_of_the_batch_alone():
    usage = MeanAssignment(K, 1)
    for (mean,) in rounds(50, positions=8):
        usage(mean, 8)
        usage.end_round(GO_ON)
    logits = torch.randn(8, K, generator=torch.Generator().manual_seed(1)).requires_grad_()
    estimate = usage(logits.softmax(-1).mean(0), 8)
    (found,) = torch.autograd.grad(torch.special.entr(estimate).sum(), logits)
    slope = -(estimate.detach().log() + 1)
    (expected,) = torch.autograd.grad((slope * logits.softmax(-1).mean(0)).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_passes_of_a_round_see_the_same_past_and_count_as_one_round():
    whole, parts = MeanAssignment(K, 1), MeanAssignment(K, 1)
    for passes in rounds(5, positions=16, passes=4):
        whole(passes.mean(0), 16)
        first = parts(passes[0], 4)
        for later in passes[1:]:
            parts(later, 4)
        assert torch.equal(parts(passes[0], 4), first)
        parts.round_total -= 4 * passes[0]
        parts.round_positions -= 4
        whole.end_round(GO_ON)
        parts.end_round(GO_ON)
    torch.testing.assert_close(parts.total, whole.total)
    torch.testing.assert_close(parts.weight, whole.weight)


def test_a_skipped_round_leaves_no_trace_even_where_it_was_not_finite():
    usage = MeanAssignment(K, 1)
    ((mean,),) = rounds(1, positions=8)
    usage(mean, 8)
    usage.end_round(GO_ON)
    before = {name: tensor.clone() for name, tensor in usage.state_dict().items()}
    usage(mean * torch.nan, 8)
    usage.end_round(torch.tensor(True))
    usage.end_round(GO_ON)  # nothing is left over, and an empty round is none
    assert before.keys() == {"total", "weight"}
    for name, tensor in usage.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_usage_term_of_the_loss_is_that_of_the_rounds():
    book = CrystallineBottleneck(6, K, 1)
    zero = torch.zeros(1, 8, 6)

    def usage_term(mean):
        p = torch.full((8, K), 1 / K).log()
        found = assign(p, p, torch.zeros(K, 6), 1)._replace(mean=mean)
        return 1 - float(book._losses(zero, zero, found)["compression"])

    for (mean,) in rounds(100, positions=8):
        last = usage_term(mean)
        book.end_round(GO_ON)
    assert last > 0.97 > entropy(mean)


def test_codes_started_anew_forget_how_the_old_ones_were_used():
    torch.manual_seed(0)
    book = CrystallineBottleneck(6, 4, 1)
    x = torch.randn(2, 5, 6)
    book(x, torch.full((1, 1), 0.2))
    book.end_round(GO_ON)
    assert book.mean_assignment.weight > 0
    book.init_from_data(x, torch.Generator().manual_seed(0))
    assert book.mean_assignment.weight == 0
    assert book.mean_assignment.total.sum() == 0
