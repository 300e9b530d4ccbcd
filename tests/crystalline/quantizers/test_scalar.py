import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.contract import Choice
from crystalline.quantizers.scalar import ScalarQuantizer

NO_SKIP = torch.tensor(False)


def inputs(*shape):
    common = torch.arange(1.0, shape[-1] + 1)
    return 3 + 0.01 * torch.randn(*shape) + 0.2 * torch.randn(*shape[:-1], 1) * common


def fitted(levels=(8, 5, 5, 5), d_model=16, rounds=60):
    torch.manual_seed(0)
    book = ScalarQuantizer(d_model, levels)
    for _ in range(rounds):
        book(inputs(8, 64, d_model))
        book.end_round(NO_SKIP)
    return book


def indices_of(book, d_model=16):
    book.eval()
    return book(inputs(64, 256, d_model)).indices.flatten()


def test_inputs_that_hardly_differ_fill_the_grid():
    """Also where one direction has most of what differs, as it has in a young network."""
    book = fitted()
    assert book.codebook_size == 1000
    share = indices_of(book).bincount(minlength=1000).double() / (64 * 256)
    perplexity = (-(share * share.clamp(min=1e-12).log()).sum()).exp()
    assert perplexity > 600
    assert (share > 0).double().mean() > 0.95


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(2, 6), min_size=1, max_size=4))
def test_index_and_point_of_the_grid_determine_each_other(levels):
    book = ScalarQuantizer(4, levels)
    points = book.codes[0]
    assert len(points) == book.codebook_size
    assert len(points.unique(dim=0)) == book.codebook_size
    assert points.abs().max() == 1
    steps = ((points + 1) * (book.sizes - 1) / 2).round().long()
    assert torch.equal((steps * book.places).sum(-1), torch.arange(book.codebook_size))


def test_rounding_is_the_nearest_point_and_bans_are_kept():
    book = fitted().eval()
    x = inputs(2, 9, 16)
    chosen = book(x).indices
    inside = book._squashed(book.project(x))
    distance = (inside[..., None, :] - book.codes[0]).square().sum(-1)
    assert torch.equal(distance.argmin(-1, keepdim=True), chosen)

    def others(choice: Choice):
        banned = torch.zeros(1, book.codebook_size, dtype=torch.bool)
        banned[0, choice.indices.flatten()] = True
        return choice.without(banned)

    assert not set(book(x, others).indices.flatten().tolist()) & set(chosen.flatten().tolist())


def test_the_gradient_passes_the_rounding():
    book = fitted()
    x = (inputs(2, 9, 16)).requires_grad_()
    book(x).quantized.square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(-1) > 0).all()
    assert book.codes.grad is None
    assert dict(book.code_parameters()) == {}


def test_evaluation_changes_nothing():
    book = fitted().eval()
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book(torch.randn(2, 9, 16))
    book.end_round(NO_SKIP)
    assert all(torch.equal(before[name], value) for name, value in book.state_dict().items())


def test_a_channel_needs_two_values():
    with pytest.raises(ValueError, match="levels must be two or more"):
        ScalarQuantizer(4, [3, 1])


def test_it_works_in_low_and_in_high_precision():
    book = fitted().eval()
    x = inputs(2, 9, 16)
    with torch.autocast("cpu", torch.bfloat16):
        out = book(x.bfloat16())
    assert out.quantized.dtype == torch.bfloat16
    assert book.double()(x.double()).quantized.dtype == torch.float64
