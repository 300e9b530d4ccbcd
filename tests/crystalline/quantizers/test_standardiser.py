import torch

from crystalline.quantizers.residual import ResidualQuantizer
from crystalline.quantizers.standardiser import Standardiser

NO_SKIP = torch.tensor(False)


def test_started_from_data_it_gives_mean_0_and_unit_scale_and_leads_back():
    x = 30 + torch.tensor([1.0, 2.0, 3.0]) * torch.randn(50, 7, 3)
    part = Standardiser(3)
    part.init_from_data(x)
    y = part(x)
    torch.testing.assert_close(y.flatten(0, 1).mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.square().mean(), torch.tensor(1.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(part.restore(y), x)


def test_statistics_follow_the_rounds_and_ignore_how_they_are_cut():
    x = 5 + torch.randn(4, 9, 3)
    whole, parts = Standardiser(3, decay=0.5), Standardiser(3, decay=0.5)
    whole(x)
    for part in x.chunk(2):
        parts(part)
    for module in (whole, parts):
        module.end_round(NO_SKIP)
    mean = x.flatten(0, 1).mean(0)
    torch.testing.assert_close(whole.mean, mean)  # the first round counts in full
    torch.testing.assert_close(parts.mean, whole.mean)
    spread = (x.flatten(0, 1) - mean).square().mean()
    torch.testing.assert_close(whole.variance, spread, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(parts.variance, whole.variance, atol=1e-4, rtol=1e-4)
    for _ in range(2):  # the second by a half, the third by the share that `decay` leaves
        whole(x + 1)
        whole.end_round(NO_SKIP)
    torch.testing.assert_close(whole.mean, mean + 0.75)


def test_a_batch_does_not_see_its_own_statistics():
    part = Standardiser(3)
    x = torch.randn(2, 5, 3)
    other = x.clone()
    other[:, 3:] += 10
    assert torch.equal(part(x)[:, :3], part(other)[:, :3])


def test_skipped_and_evaluation_rounds_change_nothing():
    part = Standardiser(3)
    part(torch.full((1, 2, 3), float("nan")))
    part.end_round(torch.tensor(True))
    part.eval()
    part(torch.randn(2, 5, 3))
    part.end_round(NO_SKIP)
    assert torch.equal(part.mean, torch.zeros(3))
    assert part.variance == 1


def test_a_quantizer_starts_its_codes_on_centred_inputs():
    book = ResidualQuantizer(6, codebook_size=8, num_codebooks=1, codebook_dim=3, standardise=True)
    x = 4 + torch.randn(10, 20, 6)
    book.init_from_data(x, torch.Generator().manual_seed(0))
    out = book.eval()(x)
    assert out.indices.unique().numel() == 8
    assert out.losses["commitment"] < 0.9


def test_without_restoring_inputs_that_hardly_differ_give_outputs_that_do():
    torch.manual_seed(0)
    x = 4 + 1e-3 * torch.randn(10, 20, 6)
    options = {"codebook_size": 8, "num_codebooks": 1, "codebook_dim": 3, "standardise": True}
    spread = {}
    for restore in (True, False):
        book = ResidualQuantizer(6, **options, restore=restore)
        book.init_from_data(x, torch.Generator().manual_seed(0))
        y = x.clone().requires_grad_()
        out = book.eval()(y)
        spread[restore] = out.quantized.detach().flatten(0, 1).std(0).mean()
        out.quantized.square().sum().backward()
        assert y.grad is not None
        assert 0 < y.grad.abs().max() < 1e3
    assert spread[False] > 50 * spread[True]
