"""Sums that fade with distance."""

import pytest
import torch

from crystalline.layers.fading_sum import fading_sum


def by_recurrence(x, decay):
    read, now = [], torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        read.append(now)
        now = decay * now + x[:, t]
    return torch.stack(read, 1), now


@pytest.mark.parametrize("length", [1, 2, 32, 33, 100])
def test_chunks_sum_as_the_recurrence_does_gradients_included(length):
    torch.manual_seed(0)
    x = torch.randn(2, length, 5, requires_grad=True)
    logit = torch.tensor([-90.0, -4.0, 0.0, 3.0, 20.0], requires_grad=True)
    weight = torch.randn(2, length, 5)
    fast, nothing = fading_sum(x, torch.nn.functional.logsigmoid(logit))
    plain, _ = by_recurrence(x, logit.sigmoid())
    assert nothing is None
    torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)
    if length > 1:
        for a, b in zip(
            torch.autograd.grad((fast * weight).sum(), (x, logit)),
            torch.autograd.grad((plain * weight).sum(), (x, logit)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_nothing_under_or_overflows_in_long_sequences():
    x = torch.ones(1, 2048, 3)
    decay = torch.tensor([0.5, 0.88, 0.999])
    read, _ = fading_sum(x, decay.log())
    count = torch.arange(2048)[:, None]
    torch.testing.assert_close(read[0], (1 - decay**count) / (1 - decay), atol=1e-4, rtol=1e-4)


def test_a_call_goes_on_from_the_memory_of_another():
    torch.manual_seed(0)
    x, log_decay = torch.randn(2, 90, 4), torch.tensor([0.1, 0.5, 0.9, 1.0]).log()
    memory, read = torch.zeros(2, 4), []
    for part in (slice(0, 40), slice(40, 41), slice(41, 90)):
        now, memory = fading_sum(x[:, part], log_decay, memory)
        read.append(now)
    torch.testing.assert_close(torch.cat(read, 1), fading_sum(x, log_decay)[0])
    torch.testing.assert_close(memory, by_recurrence(x, log_decay.exp())[1])


def test_sums_are_in_single_precision_under_autocast():
    x = torch.randn(1, 70, 2, generator=torch.Generator().manual_seed(0))
    log_decay = torch.tensor([0.9, 0.99]).log()
    with torch.autocast("cpu", torch.bfloat16):
        read, _ = fading_sum(x, log_decay)
    assert torch.equal(read, fading_sum(x, log_decay)[0])
