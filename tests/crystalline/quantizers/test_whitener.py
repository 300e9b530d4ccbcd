import torch

from crystalline.quantizers.whitener import Whitener

NO_SKIP = torch.tensor(False)
MIX = torch.tensor([[1.0, 0.0, 0.0], [5.0, 0.3, 0.0], [2.0, 1.0, 0.2]])


def inputs(count=4000):
    return 30 + torch.randn(4, count // 4, 3) @ MIX.T


def test_correlated_channels_come_out_with_unit_covariance():
    torch.manual_seed(0)
    part = Whitener(3)
    for _ in range(60):
        part(inputs())
        part.end_round(NO_SKIP)
    out = part.eval()(inputs(40_000)).flatten(0, 1)
    torch.testing.assert_close(out.mean(0), torch.zeros(3), atol=0.05, rtol=0)
    torch.testing.assert_close(out.T.cov(), torch.eye(3), atol=0.1, rtol=0)


def test_statistics_are_those_of_a_mixture_of_rounds_however_these_are_cut():
    torch.manual_seed(0)
    first, second = inputs(400), inputs(400) + 7
    whole, parts = Whitener(3), Whitener(3)
    for x in (first, second):
        whole(x)
        for part in x.chunk(4):
            parts(part)
        for module in (whole, parts):
            module.end_round(NO_SKIP)
    both = torch.cat([first, second]).flatten(0, 1)  # the second counts by a half
    torch.testing.assert_close(whole.mean, both.mean(0), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(whole.covariance, both.T.cov(correction=0), atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(parts.covariance, whole.covariance, atol=1e-3, rtol=1e-3)


def test_constant_inputs_and_skipped_rounds_leave_numbers():
    part = Whitener(3)
    part(torch.full((1, 2, 3), float("nan")))
    part.end_round(torch.tensor(True))
    assert torch.equal(part.inverse, torch.eye(3)) or torch.isfinite(part.inverse).all()
    for _ in range(3):
        part(torch.full((2, 5, 3), 4.0))
        part.end_round(NO_SKIP)
    assert torch.isfinite(part(torch.full((2, 5, 3), 4.0))).all()
