import torch

from crystalline.layers.recompute import recomputed


def kept(function, *inputs):
    """What `function` gives, and how many tensors are kept for its backward pass."""
    count = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: count.append(t) or t, lambda t: t):
        found = function(*inputs)
    return found, len(count)


def deep(x, y):
    for _ in range(5):
        x = (x * y).sin()
    return x, x.exp()


def test_values_and_gradients_are_the_same_and_inner_values_are_not_kept():
    torch.manual_seed(0)
    x, y = (torch.randn(7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    plain, many = kept(deep, x, y)
    again, few = kept(lambda *inputs: recomputed(deep, *inputs), x, y)
    assert few == 2 < many
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)
    wanted = torch.autograd.grad(plain[0].sum() + plain[1].sum(), (x, y))
    given = torch.autograd.grad(again[0].sum() + again[1].sum(), (x, y))
    for a, b in zip(wanted, given, strict=True):
        assert torch.equal(a, b)


def test_without_gradients_it_is_a_plain_call():
    calls = []
    with torch.no_grad():
        assert recomputed(lambda x: calls.append(x) or x + 1, torch.ones(())) == 2
    assert len(calls) == 1
