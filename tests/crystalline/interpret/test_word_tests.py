import math

import pytest
import torch

from crystalline.interpret.word_tests import (
    change_states,
    correlation,
    interval,
    outcome_rows,
    rotation,
)
from tests.crystalline.interpret.word_models import VOCAB, meta, text


def random() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def silent(model):
    """A model whose second step does nothing: what is changed before it reaches the output."""
    with torch.no_grad():
        for part in model.steps[1].parts:
            part.gain.zero_()
    return model


def test_rotated_coordinates_are_orthonormal():
    directions = rotation(VOCAB, random())
    torch.testing.assert_close(directions.T @ directions, torch.eye(VOCAB), atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", ["zero", "exchange"])
@pytest.mark.parametrize("rotated", [False, True])
def test_the_lens_is_right_where_nothing_comes_after(change, rotated):
    model, (tokens, _) = silent(meta()), text()
    directions = rotation(VOCAB, random()) if rotated else None
    found = change_states(model, tokens, 0, change, directions, random())
    torch.testing.assert_close(found.measured, found.predicted, atol=1e-4, rtol=1e-4)
    assert (found.predicted != 0).all()
    assert (found.here > 0).all()
    torch.testing.assert_close(found.later, torch.zeros(3), atol=1e-9, rtol=0)


@torch.no_grad()
def test_zero_takes_one_word_away():
    model, (tokens, _) = silent(meta()), text()
    found = change_states(model, tokens, 0, "zero", None, random())
    start = model.start(tokens)
    read = (model.steps[0](start) - start)[:, 4]
    before = model.head(read)
    for row in range(3):
        changes = []
        for word in range(VOCAB):  # which one was drawn is seen by its size
            without = read[row].clone()
            without[word] = 0
            changes.append(float((without - read[row]).norm()))
        word = int((torch.tensor(changes) - found.size[row]).abs().argmin())
        without = read[row].clone()
        without[word] = 0
        moved = model.head(without) - before[row]
        moved = moved - moved.mean()
        assert float(found.predicted[row]) == pytest.approx(
            float(moved[moved.abs().argmax()]), abs=1e-4
        )
        squares = moved.double().square()
        breadth = float(squares.sum() ** 2 / squares.square().sum())
        assert float(found.breadth[row]) == pytest.approx(breadth, rel=1e-2)


def test_the_control_moves_as_far_and_touches_more_words():
    model, (tokens, _) = meta(), text()
    word = change_states(model, tokens, 0, "zero", None, random())
    control = change_states(model, tokens, 0, "zero", rotation(VOCAB, random()), random())
    torch.testing.assert_close(control.size, word.size, atol=1e-4, rtol=1e-4)
    assert control.breadth.mean() > 2 * word.breadth.mean()


def test_later_positions_hear_of_a_change_through_memories():
    model, (tokens, _) = meta(), text()
    with torch.no_grad():
        model.steps[1].parts[0].gain.fill_(20)
    assert (change_states(model, tokens, 0, "zero", None, random()).later > 0).all()


def test_there_is_a_row_for_each_pass_change_and_kind():
    model, (tokens, _) = meta(), text()
    rows = outcome_rows(model, [tokens[:2], tokens[2:]])
    assert [(r["pass"], r["change"], r["coordinates"]) for r in rows] == [
        (1, change, kind) for change in ("zero", "exchange") for kind in ("words", "rotated")
    ]
    assert rows == outcome_rows(model, [tokens[:2], tokens[2:]])
    assert all(-1 <= row["low"] <= row["faithful"] <= row["high"] <= 1 for row in rows)


def test_correlation_is_pearsons():
    x, y = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 2.0])
    assert correlation(x, y) == pytest.approx(0.327327, rel=1e-4)
    assert math.isnan(correlation(x, torch.ones(3)))


def test_an_interval_is_fishers():
    assert interval(0.5, 28) == pytest.approx((0.1561, 0.7358), abs=1e-3)
    low, high = interval(1.0, 10)
    assert 0.99 < low <= high == 1
    assert interval(0.5, 3) == (-1, 1)
    assert all(math.isnan(end) for end in interval(math.nan, 9))
