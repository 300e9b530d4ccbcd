"""Operators against their definitions, on a CPU and (marked gpu) in Triton."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.library import opcheck

from crystalline.layers.convolution import DepthwiseConvolution
from crystalline.layers.kernels import taps
from crystalline.layers.kernels.largest import kth_largest

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# batch, positions, channels, taps: ragged against every tile size
SHAPES = [(2, 7, 5, 3), (1, 3, 9, 16), (1, 4, 2, 1), (2, 130, 70, 16)]


def example(shape, gated, dtype=torch.float32, device="cpu"):
    batch, length, vocab, width = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def leaf(*axes):
        values = torch.randn(*axes, generator=generator, dtype=torch.float64)
        return values.to(device, dtype).requires_grad_()

    gates = leaf(batch, length, width) if gated else None
    return leaf(batch, length, vocab), leaf(width, vocab), leaf(vocab), gates


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_the_filters_derivative_is_that_of_finite_differences(shape, gated):
    inputs = example(shape, gated, torch.float64)
    assert gradcheck(taps.filtered, inputs)
    opcheck(taps.filtered, inputs)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_filter_is_the_loop_over_taps(shape, gated, device):
    x, weight, bias, gates = example(shape, gated)
    conv = DepthwiseConvolution(shape[2], shape[3], std=0.0)
    conv.weight.data, conv.bias.data = weight.detach().T[:, None], bias.detach()
    wanted = conv(x, gates=gates)[0]  # on a CPU the loop
    wanted.square().sum().backward()
    leaves = x, conv.weight, conv.bias, *(() if gates is None else (gates,))
    moved = [leaf.detach().to(device).requires_grad_() for leaf in (x, weight, bias)]
    at = None if gates is None else gates.detach().to(device).requires_grad_()
    found = taps.filtered(*moved, at)
    found.square().sum().backward()
    torch.testing.assert_close(found.cpu(), wanted, atol=1e-4, rtol=1e-4)
    for mine, leaf in zip([*moved, *(() if at is None else (at,))], leaves, strict=True):
        expected = leaf.grad[:, 0].T if leaf is conv.weight else leaf.grad
        torch.testing.assert_close(mine.grad.cpu(), expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("vocab", [1, 5, 100, 1024])
def test_the_kth_largest_is_that_of_a_sorted_row(vocab, device):
    x = torch.randn(3, 4, vocab, generator=torch.Generator().manual_seed(vocab))
    x[0, 0], x[0, 1, : vocab // 2], x[1, 0, 0], x[1, 1, 0] = 0, -0.0, -torch.inf, torch.inf
    for k in {1, max(1, vocab // 2), vocab}:
        wanted = x.sort(-1, descending=True).values[..., k - 1 : k]
        assert torch.equal(kth_largest(x.to(device), torch.tensor(k, device=device)).cpu(), wanted)
    opcheck(kth_largest, (x.to(device), torch.tensor(1, device=device)))
