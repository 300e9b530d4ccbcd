"""Linear attention with decays of each position's own."""

import pytest
import torch

from crystalline.layers.decay_attention import quadratic
from crystalline.layers.selective_attention import cumulative, per_key


def inputs(length=20, dtype=torch.float64):
    torch.manual_seed(0)
    q, k, u = (torch.randn(2, length, w, dtype=dtype, requires_grad=True) for w in (3, 3, 4))
    logit = (3 * torch.randn(2, length, dtype=dtype)).requires_grad_()
    return q, k, u, logit


def by_definition(q, k, u, decay, weight):
    read = []
    for t in range(q.shape[1]):
        now = torch.zeros_like(u[:, 0])
        for s in range(t):
            score = weight(decay, t, s) * (q[:, t] * k[:, s]).sum(-1)
            now = now + score[:, None] * u[:, s]
        read.append(now)
    return torch.stack(read, 1)


def by_key(decay, t, s):
    return decay[:, s] ** (t - s - 1)


def by_product(decay, t, s):
    return decay[:, s + 1 : t].prod(-1)


@pytest.mark.parametrize(
    ("form", "weight"),
    [
        (per_key, by_key),
        (lambda *a: cumulative(*a)[0], by_product),
        (lambda *a: cumulative(*a, size=7)[0], by_product),
    ],
)
def test_forms_are_their_definitions_gradients_included(form, weight):
    *parts, logit = inputs()
    target = torch.randn(2, 20, 4, dtype=torch.float64)
    fast = form(*parts, torch.nn.functional.logsigmoid(logit))
    plain = by_definition(*parts, logit.sigmoid(), weight)
    torch.testing.assert_close(fast, plain)
    for a, b in zip(
        torch.autograd.grad((fast * target).sum(), (*parts, logit)),
        torch.autograd.grad((plain * target).sum(), (*parts, logit)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("decay", [1e-30, 0.3, 0.99])
def test_with_one_decay_for_all_both_are_the_plain_form(decay):
    q, k, u, logit = inputs(100, torch.float32)
    one = torch.tensor(decay).log()
    plain = quadratic(q, k, u, one)
    each = one.expand_as(logit)
    torch.testing.assert_close(per_key(q, k, u, each), plain, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cumulative(q, k, u, each)[0], plain, atol=1e-4, rtol=1e-4)


def test_calls_go_on_where_others_stopped():
    q, k, u, logit = inputs()
    log_decay = torch.nn.functional.logsigmoid(logit)
    memory, read = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for part in (slice(0, 8), slice(8, 9), slice(9, 20)):
        now, memory = cumulative(q[:, part], k[:, part], u[:, part], log_decay[:, part], memory)
        read.append(now)
    torch.testing.assert_close(torch.cat(read, 1), cumulative(q, k, u, log_decay)[0])
    later = per_key(q[:, 8:], k, u, log_decay, start=8)
    torch.testing.assert_close(later, per_key(q, k, u, log_decay)[:, 8:])
