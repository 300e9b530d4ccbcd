"""Codes of marked places, put elsewhere, where their effect is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crystalline.interpret.information import adjusted_mutual_information, contingency
from crystalline.interpret.reading import read
from crystalline.interpret.syntax_patching import syntax_codes, syntax_shift
from tests.crystalline.interpret.test_effects import Planted


@pytest.fixture
def walk():
    """Windows in which token 3 is always followed by 4, and 4 by nothing else before it."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        row = random.integers(0, 3, 8)
        at = random.integers(0, 7)
        row[at : at + 2] = 3, 4
        rows.append(row)
    return torch.from_numpy(np.stack(rows))


@pytest.fixture
def model():
    """After code 3 token 4 has probability 1/2, after the others 1/20."""
    planted = Planted()
    after = torch.full((6, 5), 0.95 / 4)
    after[:, 4] = 0.05
    after[3] = torch.tensor([0.125] * 4 + [0.5])
    with torch.no_grad():
        planted.table[0] = after.log()
        planted.table[1] = 0
    return planted


def test_a_code_that_causes_what_follows_does_so_wherever_it_is_put(model, walk):
    reading = read(model, [walk])
    found = syntax_shift(model, reading, reading.tokens == 3, num_codes=1, places=200, seed=0)
    assert [(code.site, code.code) for code in found.codes] == [("word", 3)]
    assert found.codes[0].ami == pytest.approx(1.0)
    assert found.followers == (4,)
    assert found.natural == pytest.approx(0.5, abs=1e-6)
    assert found.before == pytest.approx(0.05, abs=1e-6)
    assert found.patched == pytest.approx(0.5, abs=1e-6)
    assert found.ratio == pytest.approx(10, abs=1e-4)
    assert found.control == pytest.approx(0.05, abs=1e-6)  # any other code


def test_the_code_of_a_book_is_the_most_telling_one_and_never_one_that_tells_absence(model, walk):
    reading = read(model, [walk])
    half = np.arange(reading.tokens.size) < reading.tokens.size // 2
    marked = reading.tokens != 0
    [code] = [c for c in syntax_codes(reading, marked, half, 5) if c.level == 0]
    tokens = reading.tokens[half]
    wanted = {
        token: adjusted_mutual_information(
            contingency((tokens == token).astype(int), (tokens != 0).astype(int))
        )
        for token in (1, 2, 3, 4)
    }
    assert code.code == max(wanted, key=wanted.get)


def test_nothing_is_measured_where_no_place_is_marked_or_no_book_tells_it(model, walk):
    reading = read(model, [walk])
    options = {"num_codes": 1, "places": 5, "seed": 0}
    assert syntax_shift(model, reading, reading.tokens == 7, **options) is None
    assert syntax_shift(model, reading, reading.tokens >= 0, **options) is None


def test_places_are_unmarked_ones_of_the_second_half(model, walk, monkeypatch):
    reading = read(model, [walk])
    seen = []
    forward = Planted.forward

    def noting(self, tokens, *, edits=None, **options):
        if edits:
            at = F.one_hot(torch.zeros(len(tokens), dtype=torch.long), 8)
            seen.append((tokens, at))
        return forward(self, tokens, edits=edits, **options)

    monkeypatch.setattr(Planted, "forward", noting)
    syntax_shift(model, reading, reading.tokens == 3, num_codes=1, places=40, seed=1)
    second = {tuple(row) for row in walk[30:].tolist()}
    assert seen
    assert all(tuple(row) in second for tokens, _ in seen for row in tokens.tolist())
