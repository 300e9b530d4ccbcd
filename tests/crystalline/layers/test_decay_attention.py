"""Three forms of attention that fades with distance."""

import pytest
import torch

from crystalline.layers.decay_attention import (
    chunked,
    decay_attention,
    fading,
    quadratic,
    recurrent,
    total_weight,
)


def inputs(length=150, d_key=5, d_value=7, dtype=torch.float64, lead=(2,)):
    torch.manual_seed(0)
    widths = (d_key, d_key, d_value)
    return [torch.randn(*lead, length, w, dtype=dtype, requires_grad=True) for w in widths]


def test_by_hand():
    q, k, u = (torch.tensor([[[1.0], [2.0], [3.0]]]) for _ in range(3))
    half = torch.tensor(0.5).log()
    expected = torch.tensor([0.0, 2 * 1, 3 * (2 * 2 + 0.5 * 1)])
    torch.testing.assert_close(quadratic(q, k, u, half)[0, :, 0], expected)


@pytest.mark.parametrize("logit", [-20.0, 0.0, 3.0, 6.0])
@pytest.mark.parametrize("size", [1, 16, 64, 200])
def test_the_forms_are_equal_gradients_included(logit, size):
    parts = inputs()
    decay = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 150, 7, dtype=torch.float64)
    found = []
    for form in (
        quadratic,
        lambda *a: recurrent(*a)[0],
        lambda *a: chunked(*a, size=size)[0],
        lambda *a: decay_attention(*a)[0],
    ):
        read = form(*parts, torch.nn.functional.logsigmoid(decay))
        assert read.isfinite().all()
        found.append((read, *torch.autograd.grad((read * weight).sum(), (*parts, decay))))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("decay", [pytest.param(0.9, marks=pytest.mark.slow), 0.999])
def test_long_sequences_in_single_and_half_precision(decay):
    parts = inputs(2048, 8, 8, torch.float32)
    exact = quadratic(*(part.double() for part in parts), torch.tensor(decay).double().log())
    forms = (quadratic, lambda *a: recurrent(*a)[0], lambda *a: chunked(*a)[0])
    for dtype, error in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        for form in forms:
            read = form(*(part.to(dtype) for part in parts), torch.tensor(decay).log())
            assert (read.double() - exact).norm() < error * exact.norm(), (dtype, form)


def test_a_decay_for_each_head():
    parts = inputs(lead=(2, 3))
    decay = torch.tensor([0.2, 0.9, 0.99], dtype=torch.float64).log()
    together = decay_attention(*parts, decay)[0]
    for head in range(3):
        alone = quadratic(*(part[:, head] for part in parts), decay[head])
        torch.testing.assert_close(together[:, head], alone)


def test_a_call_goes_on_from_the_memory_of_another():
    parts = inputs()
    decay = torch.tensor(0.9, dtype=torch.float64).log()
    memory, read = torch.zeros(2, 5, 7, dtype=torch.float64), []
    for part in (slice(0, 70), slice(70, 71), slice(71, 150)):
        now, memory = decay_attention(*(x[:, part] for x in parts), decay, memory)
        read.append(now)
    torch.testing.assert_close(torch.cat(read, 1), quadratic(*parts, decay))


def test_total_weight_is_the_sum_of_what_fades():
    for decay in (0.0, 0.5, 0.95):
        log = torch.tensor(decay, dtype=torch.float64).log().clamp(min=-50)
        rows = fading(9, log).sum(-1).clamp(min=1)
        torch.testing.assert_close(total_weight(0, 9, log), rows)
        torch.testing.assert_close(total_weight(4, 5, log), rows[4:])
