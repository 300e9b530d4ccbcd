import pytest
import torch
from torch.nn.functional import conv1d, pad

from crystalline.layers.convolution import CausalConvolution, DepthwiseConvolution


def test_it_follows_its_formula_and_starts_as_the_identity():
    conv = CausalConvolution(4, 3)
    x = torch.randn(1, 6, 4)
    assert torch.equal(conv(x)[0], x)
    torch.nn.init.normal_(conv.weight)
    newest_first = conv.weight[:, 0].flip(-1)  # w_i of the formula
    expected = x[:, 4] + sum(newest_first[:, i] * x[:, 4 - i] for i in range(3))
    torch.testing.assert_close(conv(x)[0][:, 4], expected)


def test_a_depthwise_convolution_is_a_grouped_one_with_zeros_before_the_start():
    torch.manual_seed(0)
    conv = DepthwiseConvolution(5, 4, std=0.5)
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(2, 7, 5)
    expected = conv1d(pad(x.mT, (3, 0)), conv.weight, conv.bias, groups=5).mT
    torch.testing.assert_close(conv(x)[0], expected)
    newest = conv.weight[:, 0, -1] * x[:, 0] + conv.bias
    torch.testing.assert_close(conv(x)[0][:, 0], newest)


def test_gates_are_of_a_position_and_a_tap():
    torch.manual_seed(0)
    conv = DepthwiseConvolution(3, 2, std=0.5)
    x, gates = torch.randn(1, 4, 3), torch.rand(1, 4, 2)
    before, now = conv.weight[:, 0].T
    expected = gates[0, 2, 0] * before * x[0, 1] + gates[0, 2, 1] * now * x[0, 2] + conv.bias
    torch.testing.assert_close(conv(x, gates=gates)[0][0, 2], expected)


@pytest.mark.parametrize("width", [1, 4])
def test_a_depthwise_convolution_goes_on_where_it_stopped(width):
    conv = DepthwiseConvolution(5, width, std=0.5)
    x = torch.randn(2, 7, 5)
    recent, parts = None, []
    for part in x.split([2, 1, 4], dim=1):  # shorter than the taps, and longer
        y, recent = conv(part, recent)
        assert recent.shape == (2, width - 1, 5)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), conv(x)[0])
