import pytest
import torch

from crystalline.models.vocab_space.blocks import Bottleneck, DecayMemory, Residual, linear, rms
from crystalline.models.vocab_space.fourier import Basis, FourierOp, fourier_basis
from crystalline.models.vocab_space.readable import WordMap, diagonal_map, matrix_of
from tests.crystalline.models.vocab_space.test_variants import VARIANTS, make, shaken

V = 8


@torch.no_grad()
def dense(map: WordMap) -> torch.Tensor:
    return map.rows(0, len(map.left))


def test_rows_and_entries_are_those_of_the_table():
    left, right, own = torch.randn(V, 3), torch.randn(3, V), torch.randn(V)
    table = left @ right + own.diag()
    map = WordMap(left, right, diagonal=own)
    torch.testing.assert_close(dense(map), table)
    torch.testing.assert_close(map.rows(2, 5), table[2:5])
    i, j = torch.tensor([0, 3, 7]), torch.tensor([5, 3, 1])
    torch.testing.assert_close(map.entries(i, j), table[i, j])
    gain = torch.randn(V)
    torch.testing.assert_close(dense(map.scaled(gain)), table * gain)
    torch.testing.assert_close(dense(diagonal_map(own)), own.diag())


def test_a_map_between_slices_stands_at_their_words():
    map = WordMap(torch.randn(2, 3), torch.randn(3, 2))
    found = dense(map.spread(torch.tensor([5, 1]), torch.tensor([0, 6]), V))
    expected = torch.zeros(V, V)
    expected[torch.tensor([[5], [1]]), torch.tensor([0, 6])] = dense(map)
    torch.testing.assert_close(found, expected)


def test_the_matrix_of_a_linear_map_is_its_weight(monkeypatch):
    monkeypatch.setattr("crystalline.models.vocab_space.readable._ROWS", 3)
    map = linear(V, 5)
    torch.testing.assert_close(matrix_of(map, V, map.weight), map.weight.T)


@torch.no_grad()
def test_an_mlp_without_its_activation_is_its_map():
    block = Residual(Bottleneck(V, 4), V)
    block.gain.copy_(torch.randn(V))
    block.block.activation = torch.nn.Identity()
    x = torch.randn(1, 2, V)
    expected = rms(x) @ dense(block.word_maps(V)["write"])
    torch.testing.assert_close(block.update(x), expected)


@torch.no_grad()
def test_fourier_channels_without_activation_are_their_map():
    op = FourierOp(Basis(fourier_basis(V, 2)), 4, "softmax")
    op.activation = torch.nn.Identity()
    x = torch.randn(1, 2, V)
    torch.testing.assert_close(op(x), x @ dense(op.word_maps(V)["write"]))


@pytest.mark.parametrize("heads", [1, 2])
@torch.no_grad()
def test_a_memory_of_one_word_is_its_maps(heads):
    maps = [linear(V, 4, std=1.0) for _ in range(3)]
    memory = DecayMemory(
        *maps, linear(4, V, std=1.0), d_key=4, d_value=4, scale="inv_dim",
        decay_logit=3.0 if heads == 1 else (1.0, 3.0),
    )  # fmt: skip
    found = memory.word_maps(V)
    now, past = 6, 2
    x = torch.eye(V)[[past, now]][None]
    expected = torch.zeros(V)
    for head in range(heads):
        name = f"head.{head}." if heads > 1 else ""
        look, write = found[f"{name}look"], found[f"{name}write"]
        assert (look.gap, write.gap) == (-1, 2)
        expected = expected + dense(look)[now, past] * dense(write)[past]
    torch.testing.assert_close(memory(x)[0, 1], expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_of_every_variant_are_over_its_words(variant):
    model = shaken(make(variant))
    for map in model.word_maps().values():
        assert map.left.shape[0] == map.right.shape[1] == 32
        assert map.gap == -1 or map.gap > 0
        assert float(dense(map).abs().max()) > 0
