import math

import numpy as np
import pytest

from datamodules.sequence_tasks.dyck import Dyck


def draw(task, count=300, length=120):
    return task.draw(np.random.default_rng(0), count, length)


@pytest.mark.parametrize("depth", [1, 4])
def test_brackets_match_and_are_never_deeper(depth):
    task = Dyck(kinds=3, depth=depth)
    tokens = draw(task)
    depths = task.depths(tokens)
    deepest = 0
    for row, before in zip(tokens.tolist(), depths.tolist(), strict=True):
        opened: list[int] = []
        for token, known in zip(row, before, strict=True):
            assert len(opened) == known
            if token < 3:
                opened.append(token)
            else:
                assert opened.pop() == token - 3
            deepest = max(deepest, len(opened))
    assert deepest == depth
    assert (task.answers(tokens) == (depths > 0)).all()


def test_the_best_loss_follows_from_the_walk_of_depths():
    task = Dyck(kinds=3, depth=4)
    law, nats = np.eye(5)[0], []
    for _ in range(120):
        free = law[1:4].sum()
        opening = law[0] + free / 2
        nats.append(opening * math.log(3) + free * math.log(2))
        up, down = law * [1, 0.5, 0.5, 0.5, 0], law * [0, 0.5, 0.5, 0.5, 1]
        law = np.roll(up, 1) + np.roll(down, -1)
    found = -np.log(task.law(draw(task, count=3000)).chance)
    assert found.mean() == pytest.approx(np.mean(nats), abs=0.01)


def test_kinds_are_equally_frequent():
    tokens = draw(Dyck(kinds=4, depth=6))
    opening = np.bincount(tokens[tokens < 4])
    assert opening / opening.sum() == pytest.approx(np.full(4, 0.25), abs=0.02)
