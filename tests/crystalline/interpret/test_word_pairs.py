import math

import pytest
import torch

from crystalline.interpret.word_pairs import agreement, asymmetry, map_row, strongest, text_pairs
from crystalline.models.vocab_space.readable import WordMap, diagonal_map


def drawn(
    rank: int = 3, vocab_size: int = 7, diagonal: bool = True
) -> tuple[WordMap, torch.Tensor]:
    """A map and all its entries."""
    random = torch.Generator().manual_seed(rank)
    left = torch.randn(vocab_size, rank, generator=random)
    right = torch.randn(rank, vocab_size, generator=random)
    own = torch.randn(vocab_size, generator=random) if diagonal else None
    dense = left @ right + (0 if own is None else own.diag())
    return WordMap(left, right, diagonal=own), dense


def test_pmi_is_that_of_counted_pairs():
    windows = [torch.tensor([[0, 1, 0, 1, 2], [1, 2, 1, 2, 2]])]
    pairs = text_pairs(windows, 3, 1, min_count=2)
    found = dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True),
                     pairs.pmi.tolist(), strict=True))  # fmt: skip
    # Pairs: 01 10 01 12, 12 21 12 22.
    assert found == pytest.approx({
        (0, 1): math.log((2 / 8) / ((2 / 8) * (3 / 8))),
        (1, 2): math.log((3 / 8) / ((4 / 8) * (4 / 8))),
    })  # fmt: skip


def test_pairs_further_apart_and_looking_back():
    windows = [torch.tensor([[0, 1, 2, 0, 1, 2]])]
    far = text_pairs(windows, 3, 2, min_count=1)
    assert set(zip(far.first.tolist(), far.second.tolist(), strict=True)) == {
        (0, 2),
        (1, 0),
        (2, 1),
    }
    back = text_pairs(windows, 3, -1, min_count=1)
    assert set(zip(back.second.tolist(), back.first.tolist(), strict=True)) == {
        (0, 1), (1, 2), (2, 0)
    }  # fmt: skip
    assert len(text_pairs([], 3, 1).pmi) == 0


@pytest.mark.parametrize("diagonal", [True, False])
def test_asymmetry_of_factors_is_that_of_the_table(diagonal):
    map, dense = drawn(diagonal=diagonal)
    expected = float((dense - dense.T).square().sum() / (4 * dense.square().sum()))
    assert asymmetry(map) == pytest.approx(expected, rel=1e-4)
    assert asymmetry(diagonal_map(torch.tensor([1.0, -2.0]))) == 0
    antisymmetric = WordMap(torch.eye(2), torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    assert asymmetry(antisymmetric) == pytest.approx(1)


def test_the_strongest_pairs_are_the_largest_entries(monkeypatch):
    monkeypatch.setattr("crystalline.interpret.word_pairs._CHUNK", 3)
    map, dense = drawn()
    pairs, own = strongest(map, 4)
    apart = dense - dense.diag().diag()
    order = apart.abs().flatten().argsort(descending=True)[:4].tolist()
    assert [(i, j) for i, j, _ in pairs] == [(at // 7, at % 7) for at in order]
    assert [value for _, _, value in pairs] == pytest.approx(apart.flatten()[order].tolist())
    assert own[0][0] == int(dense.diagonal().abs().argmax())
    assert strongest(diagonal_map(torch.ones(3)), 2)[0] == []


def test_a_map_that_says_what_the_text_says_agrees_with_it():
    random = torch.Generator().manual_seed(0)
    windows = [torch.randint(6, (20, 30), generator=random)]
    pairs = text_pairs(windows, 6, 1)
    told = torch.zeros(6, 6)
    told[pairs.first, pairs.second] = pairs.pmi.float()
    assert agreement(WordMap(told, torch.eye(6)), pairs) == pytest.approx(1)
    assert agreement(WordMap(-told, torch.eye(6)), pairs) == pytest.approx(-1)
    row = map_row("steps.0", WordMap(told, torch.eye(6)), pairs, 2)
    assert (row["rank"], row["gap"], len(row["pairs"]), len(row["own"])) == (6, 1, 2, 2)
    assert math.isnan(agreement(WordMap(told, torch.eye(6)), text_pairs([], 6, 1)))
