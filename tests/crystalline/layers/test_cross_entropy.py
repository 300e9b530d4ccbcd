import pytest
import torch
import torch.nn.functional as F

from crystalline.layers import cross_entropy as module
from crystalline.layers.cross_entropy import cross_entropy, linear_cross_entropy


def example(rows=13, vocab=11, width=5, dtype=torch.float64):
    torch.manual_seed(0)
    hidden = torch.randn(1, rows, width, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, width, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocab, (1, rows))
    targets[0, 3] = -100
    return hidden, weight, targets


def test_scores_have_the_loss_and_gradient_of_the_definition_and_are_kept_once():
    hidden, weight, targets = example()
    scores = (hidden @ weight.T).detach().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = cross_entropy(scores, targets)
    assert sum(t.numel() == scores.numel() for t in kept) == 1
    wanted = F.cross_entropy(scores[0], targets[0], ignore_index=-100)
    torch.testing.assert_close(found.loss, wanted)
    each = F.cross_entropy(scores[0], targets[0], ignore_index=-100, reduction="none")
    torch.testing.assert_close(found.nats[0], each.detach())
    (given,) = torch.autograd.grad(3 * found.loss, scores)
    expected = torch.autograd.grad(3 * wanted, scores)[0]
    torch.testing.assert_close(given, expected, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("level", [0.0, 30.0, 1000.0])
def test_what_a_sure_prediction_costs_does_not_depend_on_the_level_of_scores(level):
    scores = torch.tensor([[level, level - 12, level - 12]], requires_grad=True)
    wanted = F.cross_entropy(scores, torch.tensor([0]))
    found = cross_entropy(scores, torch.tensor([0])).loss
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)
    given, expected = (torch.autograd.grad(loss, scores)[0] for loss in (found, wanted))
    torch.testing.assert_close(given, expected, rtol=1e-2, atol=0)
    head = torch.eye(3)
    linear = linear_cross_entropy(scores.detach(), head, torch.tensor([0])).loss
    torch.testing.assert_close(linear, wanted.detach(), rtol=1e-4, atol=0)


def test_where_no_target_is_scored_nothing_is_lost_and_nothing_learned():
    hidden, weight, targets = example()
    targets.fill_(-100)
    for loss in (
        cross_entropy(hidden @ weight.T, targets).loss,
        linear_cross_entropy(hidden, weight, targets).loss,
    ):
        assert loss.item() == 0
        assert all(each.eq(0).all() for each in torch.autograd.grad(loss, (hidden, weight)))


def test_scores_without_limit_of_a_row_that_is_ignored_do_not_matter():
    scores = torch.tensor([[1.0, 2.0], [float("inf"), 0.0]])
    targets = torch.tensor([0, -100])
    found = cross_entropy(scores, targets)
    torch.testing.assert_close(found.loss, F.cross_entropy(scores, targets))


def test_large_scores_do_not_overflow():
    scores = torch.tensor([[3e4, -3e4, 0.0]], requires_grad=True)
    found = cross_entropy(scores, torch.tensor([1]))
    assert found.loss.item() == pytest.approx(6e4)
    (given,) = torch.autograd.grad(found.loss, scores)
    assert given.tolist() == [[1.0, -1.0, 0.0]]


@pytest.mark.parametrize("scores_at_once", [11, 40, 10_000])
def test_linear_head_equals_the_definition(monkeypatch, scores_at_once):
    monkeypatch.setattr(module, "_MAX_SCORES", scores_at_once)
    hidden, weight, targets = example()
    plain = cross_entropy(hidden @ weight.T, targets)
    fast = linear_cross_entropy(hidden, weight, targets)
    for a, b in zip(plain, fast, strict=True):
        torch.testing.assert_close(a, b)
    assert not fast.nats.requires_grad
    wanted = torch.autograd.grad(3 * plain.loss, (hidden, weight))
    given = torch.autograd.grad(3 * fast.loss, (hidden, weight))
    for a, b in zip(wanted, given, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_agree_with_finite_differences():
    hidden, weight, targets = example(rows=4, vocab=3, width=2)
    torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets).loss, (hidden, weight)
    )


def test_a_part_that_wants_no_gradient_gets_none():
    hidden, weight, targets = example()
    loss = linear_cross_entropy(hidden, weight.detach(), targets).loss
    (gradient,) = torch.autograd.grad(loss, hidden)
    expected = torch.autograd.grad(cross_entropy(hidden @ weight.T, targets).loss, hidden)[0]
    torch.testing.assert_close(gradient, expected)
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, targets).loss.requires_grad


def test_ignored_targets_are_neither_right_nor_wrong():
    hidden, weight, targets = example()
    result = linear_cross_entropy(hidden, weight, targets)
    assert result.nats[0, 3] == 0
    assert not result.correct[0, 3]
    best = (hidden @ weight.T).argmax(-1)
    assert linear_cross_entropy(hidden, weight, best).correct.all()


def test_autocast_decides_the_dtype_of_the_products():
    hidden, weight, targets = example(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        fast = linear_cross_entropy(hidden, weight, targets)
        plain = cross_entropy(torch.nn.functional.linear(hidden, weight), targets)
    assert fast.loss.dtype == torch.float32
    torch.testing.assert_close(fast.loss, plain.loss)
    for a, b in zip(
        torch.autograd.grad(fast.loss, (hidden, weight)),
        torch.autograd.grad(plain.loss, (hidden, weight)),
        strict=True,
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=1e-2, rtol=2e-2)
