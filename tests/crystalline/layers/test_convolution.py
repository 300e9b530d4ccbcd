import torch

from crystalline.layers.convolution import CausalConvolution


def test_it_follows_its_formula_and_starts_as_the_identity():
    conv = CausalConvolution(4, 3)
    x = torch.randn(1, 6, 4)
    assert torch.equal(conv(x)[0], x)
    torch.nn.init.normal_(conv.weight)
    newest_first = conv.weight[:, 0].flip(-1)  # w_i of the formula
    expected = x[:, 4] + sum(newest_first[:, i] * x[:, 4 - i] for i in range(3))
    torch.testing.assert_close(conv(x)[0][:, 4], expected)
