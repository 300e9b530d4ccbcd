import math

import numpy as np
import pytest

from crystalline.metrics.ngram import NGram
from datamodules.sequence_tasks.copying import DelayedCopy, Induction


def draw(task, count=500, length=100):
    return task.draw(np.random.default_rng(0), count, length)


def test_copies_stand_at_the_gap_and_nowhere_else():
    tokens = draw(DelayedCopy(vocab_size=50, gap=7, p_copy=0.4))
    for distance in range(1, 7):
        equal = (tokens[:, distance:] == tokens[:, :-distance]).mean()
        assert equal == pytest.approx(1 / 50, abs=0.005)
    assert (tokens[:, 7:] == tokens[:, :-7]).mean() == pytest.approx(0.4 + 0.6 / 50, abs=0.01)


def test_the_best_loss_of_delayed_copies_is_the_closed_form():
    task = DelayedCopy(vocab_size=50, gap=7, p_copy=0.4)
    other = 0.6 / 50
    entropy = -(0.4 + other) * math.log(0.4 + other) - 49 * other * math.log(other)
    tokens = draw(task, count=2000)
    nats = -np.log(task.law(tokens).chance)
    assert nats[:, :7] == pytest.approx(math.log(50))
    assert nats[:, 7:].mean() == pytest.approx(entropy, abs=0.02)


def test_a_certain_copy_repeats_the_beginning():
    tokens = draw(DelayedCopy(vocab_size=50, gap=8, p_copy=1.0), length=30)
    assert (tokens == np.tile(tokens[:, :8], 4)[:, :30]).all()


@pytest.mark.parametrize("gap", [1, 9])
def test_what_followed_a_word_last_time_follows_again(gap):
    task = Induction(vocab_size=20, gap=gap, p_copy=0.5)
    right = asked = 0
    for row in draw(task, count=100).tolist():
        for place in range(1, len(row)):
            before = [p for p in range(place - 1) if row[p] == row[place - 1]]
            if before and place - 1 - before[-1] >= gap:
                asked += 1
                right += row[before[-1] + 1] == row[place]
    assert task.answers(draw(task, count=100)).sum() == asked
    assert right / asked == pytest.approx(0.5 + 0.5 / 20, abs=0.02)


def test_n_grams_know_next_to_nothing_about_answers():
    task = Induction(vocab_size=32, gap=6, p_copy=0.9)
    tokens, held_out = draw(task, 3000), task.draw(np.random.default_rng(1), 500, 100)
    answers = task.answers(held_out)[:, 1:]
    for order in (1, 2, 5):
        model = NGram(tokens.ravel(), 32, order)
        chance = model.probabilities(held_out[:, :-1], held_out[:, 1:])
        assert -np.log(chance[answers]).mean() > math.log(32) - 0.02
    assert -np.log(task.law(held_out).chance[:, 1:][answers]).mean() < 0.7
