"""Losses by window and by match, against windows read one by one and plain counting."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from crystalline.contract import ModelOutput
from crystalline.interpret.context_use import (
    Targets,
    interval,
    match_rows,
    matches,
    model_nats,
    ngram_nats,
)
from crystalline.metrics.ngram import NGram
from tests.model_zoo import VOCAB, build
from tests.tiny_models import Plain

RANDOM = np.random.default_rng(0)


class LastTokens(Plain):
    """Says the sum of the last `reach` tokens, modulo V; for `reach` = 1 a bigram."""

    def __init__(self, vocab_size: int, reach: int) -> None:
        super().__init__(vocab_size)
        self.reach = reach

    def forward(self, tokens, **options) -> ModelOutput:
        padded = nn.functional.pad(tokens, (self.reach - 1, 0))
        sums = padded.unfold(1, self.reach, 1).sum(-1) % self.vocab_size
        return ModelOutput(8.0 * nn.functional.one_hot(sums, self.vocab_size).float())


def sums(length: int, vocab_size: int, reach: int) -> np.ndarray:
    """A text in which every token is the sum of the `reach` before it."""
    tokens = RANDOM.integers(0, vocab_size, reach).tolist()
    for _ in range(length - reach):
        tokens.append(sum(tokens[-reach:]) % vocab_size)
    return np.array(tokens, dtype=np.uint16)


def test_targets_come_one_from_each_equal_part_of_all_texts():
    texts = RANDOM.integers(0, 9, (4, 26))
    targets = Targets.spread(texts, 20, seed=3)
    numbers = targets.rows * 25 + targets.places - 1
    assert (numbers // 5).tolist() == list(range(20))
    assert targets.ids.tolist() == [texts[r, p] for r, p in zip(*places(targets), strict=True)]
    assert places(Targets.spread(texts, 20, seed=3)) == places(targets)
    assert places(Targets.spread(texts, 20, seed=4)) != places(targets)
    every = Targets.spread(texts, 1000, seed=0)
    assert len(every) == 4 * 25
    assert set(every.places.tolist()) == set(range(1, 26))


def test_only_scored_tokens_become_targets():
    texts, scored = RANDOM.integers(0, 9, (4, 26)), RANDOM.random((4, 25)) < 0.3
    targets = Targets.spread(texts, 1000, seed=0, scored=scored)
    assert len(targets) == scored.sum()
    assert scored[targets.rows, targets.places - 1].all()


def places(targets: Targets) -> tuple[list[int], list[int]]:
    return targets.rows.tolist(), targets.places.tolist()


@pytest.mark.parametrize("name", ["transformer", "ziggurat_3", "abstractinator_2", "crystal"])
def test_losses_are_those_of_windows_that_are_read_by_themselves(name):
    model, texts = build(name).eval(), RANDOM.integers(0, VOCAB, (2, 60))
    targets = Targets.spread(texts, 12, seed=0)
    for window in (1, 6, 33):
        found = model_nats(model, targets, window, batch_size=5)
        for row, place, nats in zip(*places(targets), found, strict=True):
            begin = max(0, place - window)
            begin -= begin % model.alignment
            tokens = torch.from_numpy(texts[row, begin:place])[None]
            with torch.no_grad():
                scores = model(tokens).logits[0, -1].log_softmax(-1)
            assert nats == pytest.approx(-float(scores[texts[row, place]]), abs=1e-5)


def test_windows_are_exact_but_for_the_beginning_of_a_text_and_for_alignment():
    targets = Targets.spread(RANDOM.integers(0, 9, (3, 40)), 1000, seed=0)
    assert np.array_equal(targets.seen(7), np.minimum(targets.places, 7))
    aligned = targets.seen(7, alignment=4)
    assert ((targets.places - aligned) % 4 == 0).all()
    assert (aligned >= targets.seen(7)).all()
    assert aligned.max() == 7 + 3


@pytest.mark.parametrize("reach", [1, 3])
def test_the_loss_stops_falling_where_a_model_sees_no_further(reach):
    text = sums(300, 7, reach)
    known = np.arange(reach, len(text))
    targets = Targets(text[None], np.zeros_like(known), known)
    loss = {w: model_nats(LastTokens(7, reach), targets, w, 32).mean() for w in range(1, 6)}
    reached = math.log(1 + 6 * math.exp(-8))
    assert all(loss[w] > reached + 1 for w in range(1, reach))
    assert all(loss[w] == pytest.approx(reached, rel=1e-3) for w in range(reach, 6))


@pytest.mark.parametrize("order", [1, 2, 5])
def test_ngrams_and_matches_are_those_of_whole_rows(order):
    text = np.cumsum(RANDOM.choice([1, 2, 3], size=400)) % 9
    ngram, texts = NGram(text[:200], 9, order), text[200:].reshape(4, 50)
    targets = Targets.spread(texts, 80, seed=0)
    found, matched = ngram_nats(ngram, targets), matches(ngram, targets)
    whole = ngram.probabilities(texts[:, :-1], texts[:, 1:])
    training = [tuple(text[i : i + k]) for k in range(order) for i in range(200 - k)]
    for row, place, nats, length in zip(*places(targets), found, matched, strict=True):
        assert nats == pytest.approx(-math.log(whole[row, place - 1]))
        contexts = [tuple(texts[row, place - k : place]) for k in range(min(order, place + 1))]
        assert length == max(k for k, context in enumerate(contexts) if context in training)


def test_rows_are_means_by_length_with_the_last_ngram_beside_the_model():
    model, ngram = np.array([1.0, 2.0, 4.0, 9.0]), np.array([2.0, 2.0, 3.0, 5.0])
    rows = match_rows(np.array([0, 2, 2, 2]), model, {"1-gram": 0 * ngram, "2-gram": ngram})
    assert [(row["match"], row["targets"]) for row in rows] == [(0, 1), (2, 3), ("all", 4)]
    assert [row["model"] for row in rows] == [1, 5, 4]
    assert [row["2-gram"] for row in rows] == pytest.approx([2, 10 / 3, 3])
    assert [row["difference"] for row in rows] == pytest.approx([-1, 5 / 3, 1])
    assert math.isnan(rows[0]["low"])  # one target has no spread
    half = 1.96 * math.sqrt((4 + 1 + 0 + 9) / 3) / 2  # differences -1, 0, 1, 4 about their mean 1
    assert (rows[2]["low"], rows[2]["high"]) == pytest.approx((1 - half, 1 + half))


def test_an_interval_holds_the_true_mean_in_95_of_100_cases():
    held = [low <= 0.5 <= high for _, low, high in map(interval, RANDOM.random((2000, 50)))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)
