from itertools import product

import numpy as np
import pytest

from datamodules.sequence_tasks.topics import Topics


def test_laws_are_laws_and_topics_differ():
    task = Topics(vocab_size=20, topics=4, stay=0.9)
    assert task.emissions.shape == (4, 20)
    assert task.emissions.sum(axis=1) == pytest.approx(np.ones(4))
    assert task.transitions.sum(axis=1) == pytest.approx(np.ones(4))
    assert len(np.unique(task.emissions.argmax(axis=1))) == 4
    assert np.sort(task.emissions[2])[::-1][:3] == pytest.approx(
        task.emissions.max() / np.arange(1, 4)
    )


def test_pairs_of_words_are_as_often_as_the_chain_says():
    task = Topics(vocab_size=5, topics=3, stay=0.8)
    tokens = task.draw(np.random.default_rng(0), 3000, 100)
    for lag in (1, 4):
        between = np.linalg.matrix_power(task.transitions, lag)
        expected = task.emissions.T @ between @ task.emissions / 3
        pairs = np.zeros((5, 5))
        np.add.at(pairs, (tokens[:, :-lag].ravel(), tokens[:, lag:].ravel()), 1)
        assert pairs / pairs.sum() == pytest.approx(expected, abs=0.004)


def test_a_topic_that_always_stays_keeps_its_words():
    task = Topics(vocab_size=6, topics=2, stay=1.0)
    tokens = task.draw(np.random.default_rng(0), 200, 400)
    shares = np.stack([np.bincount(row, minlength=6) / 400 for row in tokens])
    distance = np.abs(shares[:, None] - task.emissions).max(axis=2)
    assert distance.min(axis=1).max() < 0.12
    assert 60 < (distance.argmin(axis=1) == 0).sum() < 140


def test_the_filter_agrees_with_the_sum_over_all_topics():
    task = Topics(vocab_size=4, topics=3, stay=0.7)
    tokens = task.draw(np.random.default_rng(0), 6, 5)
    for row, chance in zip(tokens, task.law(tokens).chance, strict=True):
        total = 0.0
        for topics in product(range(3), repeat=5):
            mass = 1 / 3
            for place, topic in enumerate(topics):
                mass *= task.emissions[topic, row[place]]
                mass *= task.transitions[topics[place - 1], topic] if place else 1
            total += mass
        assert chance.prod() == pytest.approx(total)
