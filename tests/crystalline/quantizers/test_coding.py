"""The fused operator against the definition, on a CPU and (marked gpu) in Triton."""

import pytest
import torch

from crystalline.quantizers.coding import code_plainly, residual_coding
from crystalline.quantizers.kernels import fused

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
# points, width, levels, codes: ragged against every tile size
SHAPES = [(37, 5, 3, 7), (130, 64, 4, 129), (1, 3, 1, 1), (300, 96, 2, 40)]


def example(shape, device, cosine=False):
    n, d, levels, size = shape
    generator = torch.Generator().manual_seed(sum(shape))
    points = torch.randn(n, d, generator=generator)
    codes = torch.randn(levels, size, d, generator=generator)
    codes /= torch.arange(1, levels + 1)[:, None, None]
    if cosine:
        codes *= torch.rand(levels, size, 1, generator=generator) + 0.5
    return points.to(device).requires_grad_(), codes.to(device).requires_grad_()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_fused_path_equals_the_definition(shape, cosine, device):
    points, codes = example(shape, device, cosine)
    assert fused.applies(points, codes)
    fast = residual_coding(points, codes, cosine=cosine)
    plain = code_plainly(points, codes, cosine=cosine)
    assert torch.equal(fast.indices, plain.indices)
    assert torch.equal(fast.counts, plain.counts)
    for name in ("quantized", "codebook", "commitment", "sums"):
        torch.testing.assert_close(getattr(fast, name), getattr(plain, name), atol=1e-5, rtol=1e-5)
    assert not fast.quantized.requires_grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_of_both_losses_equal_those_of_the_definition(shape, device):
    points, codes = example(shape, device)
    gradients = []
    for code in (residual_coding, code_plainly):
        coding = code(points, codes)
        loss = 3 * coding.codebook + 0.25 * coding.commitment
        gradients.append(torch.autograd.grad(loss, (points, codes)))
    for fast, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(fast, plain, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_the_codebook_loss_leaves_points_alone_and_commitment_leaves_codes_alone(device):
    points, codes = example(SHAPES[0], device)
    coding = residual_coding(points, codes)
    pull = torch.autograd.grad(
        coding.codebook, (points, codes), retain_graph=True, allow_unused=True
    )
    push = torch.autograd.grad(coding.commitment, (points, codes), allow_unused=True)
    assert pull[0] is None
    assert push[1] is None


@pytest.mark.parametrize("device", DEVICES)
def test_repeated_calls_are_bit_equal(device):
    points, codes = example((300, 96, 2, 40), device)
    first = residual_coding(points, codes)
    for _ in range(3):
        again = residual_coding(points, codes)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_without_statistics_nothing_is_counted_and_choices_stay(device):
    points, codes = example(SHAPES[1], device)
    bare = residual_coding(points, codes, statistics=False)
    assert torch.equal(bare.indices, residual_coding(points, codes).indices)
    assert bare.counts.numel() == bare.sums.numel() == 0


@pytest.mark.parametrize("device", DEVICES)
def test_of_equal_codes_the_first_is_chosen(device):
    points = torch.tensor([[1.0, 0.0], [0.0, 2.0]], device=device)
    codes = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]], device=device)
    assert residual_coding(points, codes).indices.flatten().tolist() == [1, 0]


def test_other_dtypes_take_the_definition():
    points, codes = example(SHAPES[0], "cpu")
    points, codes = points.double(), codes.double()
    assert not fused.applies(points, codes)
    assert residual_coding(points, codes).quantized.dtype == torch.float64


@pytest.mark.gpu
def test_large_books_agree_with_fp32_search_nearly_everywhere():
    generator = torch.Generator("cuda").manual_seed(0)
    points = torch.randn(65_536, 384, device="cuda", generator=generator)
    codes = torch.randn(4, 1024, 384, device="cuda", generator=generator) * 0.5
    fast, plain = residual_coding(points, codes), code_plainly(points, codes)
    assert (fast.indices == plain.indices).all(-1).float().mean() >= 0.9999
