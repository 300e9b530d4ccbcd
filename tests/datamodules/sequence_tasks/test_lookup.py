import math

import numpy as np
import pytest

from crystalline.errors import UserError
from crystalline.metrics.ngram import NGram
from datamodules.sequence_tasks.lookup import Lookup


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_answers_are_what_the_table_says_after_all_hops(hops):
    task = Lookup(vocab_size=30, pairs=5, queries=3, hops=hops)
    tokens = task.draw(np.random.default_rng(0), 40, 2 * task.period)
    assert task.period == 20
    for row in tokens.reshape(-1, task.period).tolist():
        table = dict(zip(row[0:10:2], row[1:10:2], strict=True))
        assert sorted(table) == sorted(table.values())
        assert row[10:19:3] == [30] * 3
        assert len(set(row[11:19:3])) == 3
        for key, answer in zip(row[11:19:3], row[12:19:3], strict=True):
            reached = key
            for _ in range(hops):
                reached = table[reached]
            assert reached == answer
        assert row[19] == 31
    flags = task.answers(tokens)
    assert (np.flatnonzero(flags[0]) % 20).tolist() == [12, 15, 18] * 2


def test_every_table_is_one_cycle():
    task = Lookup(vocab_size=9, pairs=6, queries=1, hops=1)
    for row in task.draw(np.random.default_rng(0), 50, 12).tolist():
        table = dict(zip(row[::2], row[1::2], strict=True))
        key, seen = row[0], set()
        while key not in seen:
            seen.add(key)
            key = table[key]
        assert len(seen) == 6


def test_answers_cost_nothing_and_a_first_key_is_any_word():
    task = Lookup(vocab_size=30, pairs=5, queries=5, hops=2)
    tokens = task.draw(np.random.default_rng(0), 40, 70)
    chance, best = task.law(tokens)
    assert (chance[task.answers(tokens)] == 1).all()
    assert (best >= chance - 1e-12).all()
    assert chance[:, 0] == pytest.approx(1 / 30)
    assert (chance[:, 9] == 1).all()  # the last value closes the cycle
    assert chance[:, [11, 14, 17, 20, 23]] == pytest.approx(
        np.tile(1 / np.arange(5, 0, -1), (40, 1))
    )


def test_n_grams_know_nothing_about_answers():
    task = Lookup(vocab_size=16, pairs=8, queries=4, hops=2)
    tokens = task.draw(np.random.default_rng(0), 6000, task.period)
    held_out = task.draw(np.random.default_rng(1), 2000, task.period)
    answers = task.answers(held_out)[:, 1:]
    for order in (1, 2, 5):
        model = NGram(tokens.ravel(), 18, order)
        chance = model.probabilities(held_out[:, :-1], held_out[:, 1:])
        assert -np.log(chance[answers]).mean() > math.log(16) - 0.09, order


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 31}, r"data\.pairs must lie between 2 and 30, got 31"),
        ({"queries": 6}, r"data\.queries must lie between 1 and 5, got 6"),
        ({"hops": 5}, r"data\.hops must lie between 1 and 4, got 5"),
    ],
)
def test_tables_that_cannot_be_are_user_errors(options, message):
    with pytest.raises(UserError, match=message):
        Lookup(**{"vocab_size": 30, "pairs": 5, "queries": 3, "hops": 1} | options)
