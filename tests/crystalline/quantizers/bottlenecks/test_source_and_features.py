import torch

from crystalline.quantizers.bottlenecks import CodebookFeatures, SourceBottleneck
from crystalline.quantizers.bottlenecks.source import ClampedTemperature

D, K = 6, 16


def inputs():
    return torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1))


def tau(value):
    return torch.full((1, 1), value)


def test_in_source_mode_the_temperature_cannot_change_what_is_chosen():  # G2
    torch.manual_seed(0)
    book = SourceBottleneck(D, K, 3)
    found = []
    for value in (0.05, 1.0, 20.0):
        torch.manual_seed(5)
        found.append(book(inputs(), tau(value)).codes.indices.sort(-1).values)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


def test_the_sources_entropy_is_that_of_its_noise():  # P3: 3.159 nats for K = 32 at temperature 2
    torch.manual_seed(0)
    book = SourceBottleneck(D, 32, 1)
    torch.nn.init.zeros_(book.codes)  # nothing to say
    found = book(torch.randn(1, 20_000, D), tau(2.0)).losses["compression"]
    assert abs(found.item() - 3.159) < 0.01


def test_a_clamped_temperature_never_comes_back():  # P5, the other half of G8
    temperature = ClampedTemperature(0.2, 0.1)
    with torch.no_grad():
        temperature.raw.fill_(0.05)
    value = temperature(torch.zeros(1, 1, 1, D))
    assert value.item() == torch.tensor(0.1).item()
    (slope,) = torch.autograd.grad(value.sum(), temperature.raw)
    assert slope.item() == 0


def test_features_are_the_sum_of_the_nearest_codes_and_hand_the_gradient_on():
    torch.manual_seed(0)
    book = CodebookFeatures(D, K, 2, aggregate="sum")
    x = inputs()
    n = book.project(x).detach().requires_grad_()
    book.project = lambda _: n
    out = book(x, tau(1.0))
    best = book.similarities(n.flatten(0, 1)).topk(2).indices.view(2, 5, 2)
    assert torch.equal(out.codes.indices, best)
    expected = book.codes[0][best].sum(-2)
    torch.testing.assert_close(out.quantized, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn_like(x)
    (to_n,) = torch.autograd.grad(out.quantized, n, upstream, retain_graph=True)
    torch.testing.assert_close(to_n, upstream)
    assert set(out.losses) == {"codebook", "commitment"}
    squared = (expected - n).square().sum(-1).mean()
    torch.testing.assert_close(out.losses["codebook"], squared)
