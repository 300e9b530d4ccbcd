"""Maps that are smooth in the word's id."""

import pytest
import torch

from crystalline.models.vocab_space.fourier import (
    Basis,
    FourierOp,
    Reader,
    Writer,
    cosine_basis,
    fourier_basis,
)


def test_bases_are_orthogonal_and_leave_the_mean_out():
    basis = fourier_basis(64, 5)
    torch.testing.assert_close(basis.T @ basis, 32 * torch.eye(10), atol=1e-4, rtol=0)
    angle = torch.tensor(2 * torch.pi * 2 * 7 / 64)  # word 7, second harmonic
    torch.testing.assert_close(basis[7, 2:4], torch.stack([angle.cos(), angle.sin()]))
    cosines = cosine_basis(64, 5)
    torch.testing.assert_close(cosines.T @ cosines, 32 * torch.eye(5), atol=1e-4, rtol=0)
    for each in (basis, cosines):
        torch.testing.assert_close(each.mean(0), torch.zeros(each.shape[1]), atol=1e-5, rtol=0)


def test_a_learned_basis_starts_smooth_and_a_drawn_one_is_orthogonal_and_no_surprise():
    columns = fourier_basis(64, 5)
    learned, drawn = Basis(columns, "learned"), Basis(columns, "random")
    assert torch.equal(learned(), Basis(columns)())
    learned()[3, 2].backward()
    assert learned.change.grad.count_nonzero() == 1
    assert learned.change.grad[3, 2] == 8  # sqrt(V)
    assert torch.equal(drawn(), Basis(columns, "random")())
    torch.testing.assert_close(drawn().T @ drawn(), 32 * torch.eye(10), atol=1e-4, rtol=0)
    assert not list(drawn.parameters())
    unit = Basis(columns, norm="unit")()
    torch.testing.assert_close(unit.T @ unit, torch.eye(10), atol=1e-5, rtol=0)


def test_a_softmax_read_is_an_average_and_starts_nearly_blind():
    torch.manual_seed(0)
    reader = Reader(Basis(fourier_basis(1024, 16)), 8, "softmax")
    constant = torch.full((1, 1, 1024), 3.0)
    torch.testing.assert_close(reader(constant), torch.full((1, 1, 8), 3.0))
    one_hot = torch.zeros(1, 1, 1024)
    one_hot[..., 5] = 32
    assert (reader(one_hot) - 32 / 1024).abs().max() < 0.02


@pytest.mark.parametrize("read", ["softmax", "linear"])
def test_the_operation_is_what_its_formula_says(read):
    torch.manual_seed(0)
    basis = fourier_basis(24, 3)
    op = FourierOp(Basis(basis).double(), 7, read, "relu2").double()
    x = torch.randn(2, 3, 24, dtype=torch.float64)
    basis = basis.double()
    weights = basis @ op.reader.weight.T
    weights = weights.softmax(0) if read == "softmax" else weights
    hidden = (op.mix(x @ weights) + op.bias).relu() ** 2
    torch.testing.assert_close(op(x), op.gain * hidden @ (basis @ op.writer.weight.T).T)


def test_a_writer_writes_in_the_basis_alone():
    writer = Writer(Basis(fourier_basis(24, 3)), 5)
    mean = writer(torch.randn(2, 3, 5)).mean(-1)
    torch.testing.assert_close(mean, torch.zeros(2, 3), atol=1e-5, rtol=0)
    assert list(writer.state_dict()) == ["weight"]


@pytest.mark.parametrize(("basis", "most"), [(fourier_basis, 11), (cosine_basis, 23)])
def test_there_are_only_so_many_harmonics(basis, most):
    basis(24, most)
    for harmonics in (0, most + 1):
        with pytest.raises(ValueError, match=rf"model\.harmonics must lie in \[1, {most}\]"):
            basis(24, harmonics)
