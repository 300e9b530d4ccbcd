"""What training's noise does by itself, and choosing by chance outside of training."""

import math

import pytest
import torch

from crystalline.quantizers.bottlenecks import (
    CodebookFeatures,
    CrystallineBottleneck,
    SourceBottleneck,
)
from crystalline.quantizers.bottlenecks.noise_floor import gumbel_entropy

D, K = 6, 32


def tau(value: float) -> torch.Tensor:
    return torch.full((1, 1), value)


@pytest.mark.parametrize(
    ("codebook_size", "temperature", "entropy"),
    [
        *((32, 2.0, 3.159), (32, 1.08, 2.42), (32, 0.2, 0.366), (256, 2.0, 5.17)),
        *((64, 2.0, 3.82), (64, 1.08, 2.88), (64, 0.2, 0.377)),
    ],
)
def test_the_entropy_of_noise_is_that_of_the_spec(codebook_size, temperature, entropy):
    assert gumbel_entropy(codebook_size, temperature) == pytest.approx(entropy, abs=0.011)


@pytest.mark.parametrize("value", [0.3, 2.0])
def test_the_floor_of_the_seed_is_its_own_entropy_where_all_codes_are_alike(value):
    book = SourceBottleneck(D, K, 2)
    torch.manual_seed(0)
    measured = book(torch.zeros(1, 20_000, D), tau(value)).codes.entropy.mean()
    assert book.noise_floor(value) == pytest.approx(float(measured), abs=0.02)
    assert book.noise_floor(2.0) > book.noise_floor(0.3)


def test_noise_that_no_temperature_divides_has_one_floor():
    book = CrystallineBottleneck(D, K, 2)
    assert book.noise_floor(0.05) == book.noise_floor(5.0) == gumbel_entropy(K, 1.0)


@pytest.mark.parametrize(
    "book", [CrystallineBottleneck(D, K, 2, noise=False), CodebookFeatures(D, K, 2)]
)
def test_without_noise_codes_that_are_alike_share_equally(book):
    assert book.noise_floor(0.2) == math.log(K)
    assert not book.samples


def build(kind: str):
    torch.manual_seed(0)
    if kind == "source":
        return SourceBottleneck(D, K, 2)
    estimator, budget = ("soft", "position") if kind == "soft" else ("hybrid", kind)
    return CrystallineBottleneck(D, K, 2, estimator=estimator, budget=budget)


@pytest.mark.parametrize("kind", ["source", "position", "batch", "soft"])
def test_evaluation_chooses_as_training_does_when_told_to_and_leaves_no_trace(kind):
    book = build(kind)
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(3)
    trained = book(x, tau(1.0))
    book.end_round(torch.tensor(False))
    book.eval()
    before = {name: tensor.clone() for name, tensor in book.named_buffers()}
    sure = book(x, tau(1.0)).quantized
    book.sampled = True
    torch.manual_seed(3)
    drawn = book(x, tau(1.0))
    assert torch.equal(drawn.codes.indices, trained.codes.indices)
    torch.testing.assert_close(drawn.quantized, trained.quantized)
    assert not torch.equal(drawn.quantized, sure)
    assert drawn.losses == {}
    for name, tensor in book.named_buffers():
        assert torch.equal(tensor, before[name]), name
    book.sampled = False
    assert torch.equal(book(x, tau(1.0)).quantized, sure)
