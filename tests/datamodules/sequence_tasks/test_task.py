"""What holds for every task, at sizes where all sequences can be counted."""

import numpy as np
import pytest

from crystalline.errors import UserError
from datamodules.sequence_tasks.copying import DelayedCopy, Induction
from datamodules.sequence_tasks.dyck import Dyck
from datamodules.sequence_tasks.lookup import Lookup
from datamodules.sequence_tasks.task import earlier, require
from datamodules.sequence_tasks.topics import Topics

TINY = {  # a task and a length
    "delayed copy": (DelayedCopy(vocab_size=3, gap=2, p_copy=0.6), 5),
    "induction": (Induction(vocab_size=3, gap=1, p_copy=0.7), 5),
    "induction from afar": (Induction(vocab_size=2, gap=3, p_copy=0.7), 7),
    "lookup": (Lookup(vocab_size=4, pairs=3, queries=2, hops=2), 13),
    "lookup of all words": (Lookup(vocab_size=3, pairs=3, queries=3, hops=1), 16),
    "dyck": (Dyck(kinds=2, depth=2), 7),
    "topics": (Topics(vocab_size=4, topics=3, stay=0.8), 4),
}


@pytest.fixture(params=TINY)
def drawn(request):
    task, length = TINY[request.param]
    return task, task.draw(np.random.default_rng(0), 100_000, length)


def test_chances_are_the_shares_of_sequences_drawn(drawn):
    task, tokens = drawn
    rows, counts = np.unique(tokens, axis=0, return_counts=True)
    expected = task.law(rows).chance.prod(axis=1)
    assert expected.sum() == pytest.approx(1, abs=0.005)  # a few were not drawn
    assert expected.sum() < 1 + 1e-9
    noise = np.sqrt(expected / len(tokens)).sum()  # the mean distance is 0.8 of it at most
    assert np.abs(counts / len(tokens) - expected).sum() < noise


def test_the_likeliest_token_has_the_best_chance(drawn):
    task, tokens = drawn
    rows = np.unique(tokens, axis=0)
    chance, best = task.law(rows)
    for place in range(rows.shape[1]):
        _, group = np.unique(rows[:, :place], axis=0, return_inverse=True)
        largest = np.zeros(group.max() + 1)
        np.maximum.at(largest, group.ravel(), chance[:, place])
        assert best[:, place] == pytest.approx(largest[group.ravel()])


def test_tokens_are_words_or_the_special_one(drawn):
    task, tokens = drawn
    assert tokens.dtype == np.int64
    assert (tokens.min(), len(set(task.words))) == (0, len(task.words))
    assert tokens.max() <= len(task.words)


def test_whether_a_token_is_an_answer_follows_from_those_before(drawn):
    task, tokens = drawn
    rows = np.unique(tokens, axis=0)
    answers = task.answers(rows)
    for place in range(rows.shape[1]):
        _, group = np.unique(rows[:, :place], axis=0, return_inverse=True)
        share = np.bincount(group.ravel(), answers[:, place]) / np.bincount(group.ravel())
        assert set(np.unique(share)) <= {0.0, 1.0}


def test_the_shortest_sequences_with_answers_are_known(drawn):
    task, tokens = drawn
    assert task.answers(tokens)[:, : task.shortest].any()
    assert not task.answers(tokens)[:, : task.shortest - 1].any()


def test_equal_generators_draw_equal_sequences(drawn):
    task, _ = drawn
    first, second, third = (task.draw(np.random.default_rng(s), 20, 30) for s in (5, 5, 6))
    assert (first == second).all()
    assert (first != third).any()


def test_where_a_token_stood_before_is_found():
    tokens = np.array([[3, 1, 3, 3, 1], [0, 1, 2, 3, 0]])
    assert earlier(tokens).tolist() == [[-1, -1, 0, 2, 1], [-1, -1, -1, -1, 0]]


@pytest.mark.parametrize(
    ("value", "limits", "message"),
    [
        (0, (1,), r"data\.key must be at least 1, got 0"),
        (1.5, (0.0, 1.0), r"data\.key must lie between 0\.0 and 1\.0, got 1\.5"),
        (2.5, (1, 4), r"data\.key must be a whole number, got 2\.5"),
        (True, (0, 4), r"data\.key must be a whole number, got True"),
        (None, (0, 4), r"data\.key must be a whole number, got None"),
        ("much", (0.0, 1.0), r"data\.key must be a number, got much"),
        (float("nan"), (0.0, 1.0), r"data\.key must lie between 0\.0 and 1\.0, got nan"),
    ],
)
def test_options_out_of_range_are_user_errors(value, limits, message):
    with pytest.raises(UserError, match=message):
        require("key", value, *limits)
