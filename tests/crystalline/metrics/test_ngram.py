"""Kneser-Ney by hand, against a plain implementation, and summing to one."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from crystalline.metrics.ngram import NGram

RANDOM = np.random.default_rng(0)


def text(length, vocab_size):
    """Some tokens often, some never, most follow the one before."""
    steps = RANDOM.choice([1, 2, 3], p=[0.7, 0.2, 0.1], size=length)
    return (np.cumsum(steps) % (vocab_size - 2)).astype(np.uint16)  # as token files are


def plainly(tokens, vocab_size, order):
    """The definition with dictionaries: a function of (history, token)."""
    grams = {
        k: Counter(tuple(tokens[i : i + k]) for i in range(len(tokens) - k + 1))
        for k in range(1, order + 1)
    }
    counts = {order: grams[order]}
    for k in range(1, order):
        counts[k] = Counter(longer[1:] for longer in grams[k + 1])
    followers = {k: defaultdict(dict) for k in counts}
    for k, table in counts.items():
        for gram, count in table.items():
            followers[k][gram[:-1]][gram[-1]] = count

    def probability(history, token):
        k = len(history) + 1
        below = 1 / vocab_size if k == 1 else probability(history[1:], token)
        seen = followers[k].get(history)
        if not seen:
            return below
        once, twice = (sum(c == n for c in counts[k].values()) for n in (1, 2))
        discount = once / (once + 2 * twice) if once else 0.5
        total = sum(seen.values())
        return (max(seen.get(token, 0) - discount, 0) + discount * len(seen) * below) / total

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_it_is_the_definition(order):
    tokens = text(120, 9)
    model, plain = NGram(tokens, 9, order), plainly(tokens.tolist(), 9, order)
    rows = RANDOM.integers(0, 9, (4, 8))
    rows[0] = text(8, 9)
    found = model.probabilities(rows[:, :-1], rows[:, 1:])
    for row, line in zip(rows.tolist(), found, strict=True):
        for place, probability in enumerate(line):
            history = tuple(row[max(0, place + 2 - order) : place + 1]) if order > 1 else ()
            assert probability == pytest.approx(plain(history, row[place + 1]), rel=1e-12)


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("length", [6, 300])
def test_probabilities_of_all_tokens_are_one_together(order, length):
    model = NGram(text(length, 9), 9, order)
    rows = RANDOM.integers(0, 9, (5, 6))
    each = [model.probabilities(rows, np.full_like(rows, token)) for token in range(9)]
    assert min(part.min() for part in each) > 0  # tokens never seen too
    np.testing.assert_allclose(sum(each), 1, rtol=1e-12)


def test_a_bigram_by_hand():
    # 0 1 0 1 0 2, V = 4. Bigrams 01: 2, 10: 2, 02: 1, so D_2 = 1 / (1 + 2 x 2) = 0.2. Each token
    # has one left neighbour, so D_1 = 1.
    model = NGram(np.array([0, 1, 0, 1, 0, 2]), 4, 2)
    found = model.probabilities(np.array([[0, 0, 0, 3]]), np.array([[1, 2, 3, 1]]))
    below = 0.25  # a discount of 1 leaves nothing but 1 / V
    wanted = [(2 - 0.2 + 0.4 * below) / 3, (1 - 0.2 + 0.4 * below) / 3, 0.4 * below / 3, below]
    np.testing.assert_allclose(found[0], wanted)


def test_the_order_pays_where_text_is_of_that_order():
    tokens = np.zeros(3000, dtype=np.int64)
    for i in range(2, 3000):  # the token two before decides, nine times in ten
        tokens[i] = (tokens[i - 2] + 1) % 5 if RANDOM.random() < 0.9 else RANDOM.integers(5)
    rows = tokens[2000:].reshape(-1, 20)

    def nats(order):
        found = NGram(tokens[:2000], 5, order).probabilities(rows[:, :-1], rows[:, 1:])
        return -np.log(found[:, 2:]).mean()

    assert nats(3) < 0.75
    assert nats(2) > 1.0
    assert nats(1) == pytest.approx(np.log(5), abs=0.05)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_one_row_is_a_text(order):
    tokens, rows = text(200, 9), RANDOM.integers(0, 9, (3, 5))
    as_text, as_row = NGram(tokens, 9, order), NGram(tokens[None], 9, order)
    assert np.array_equal(as_text.probabilities(rows, rows), as_row.probabilities(rows, rows))


def test_of_rows_nothing_is_counted_across_their_ends_and_openings_are_not_predicted():
    rows = np.array([[8, 0, 1], [8, 0, 1], [8, 1, 0], [8, 2, 1]])  # 8 opens, 1 8 never stands there
    probabilities = [
        NGram(rows, 9, order).probabilities(np.full((1, 9), 1), np.arange(9)[None])[0]
        for order in (1, 2)
    ]
    counts, discount = np.array([3, 4, 1]), 1.0  # one token counts once, none twice
    wanted = np.full(9, 3 * discount / 8 / 9)
    wanted[:3] += (counts - discount) / 8
    np.testing.assert_allclose(probabilities[0], wanted)
    assert probabilities[1][1:].argmax() == 0  # after 1 only 0 was seen
    assert probabilities[1][8] < 0.1


@pytest.mark.parametrize("order", [2, 3, 4])
def test_what_follows_the_opening_of_rows_is_known_at_every_order(order):
    rows = np.concatenate([np.tile([5, 3], (500, 1)), RANDOM.integers(0, 3, (500, 20))], axis=1)
    model = NGram(rows, 9, order)
    assert model.probabilities(np.array([[5]]), np.array([[3]]))[0, 0] > 0.98
    each = [model.probabilities(rows[:9], np.full_like(rows[:9], token)) for token in range(9)]
    np.testing.assert_allclose(sum(each), 1, rtol=1e-12)


def test_a_row_sees_nothing_of_the_row_before():
    model = NGram(text(200, 9), 9, 3)
    rows = RANDOM.integers(0, 9, (3, 5))
    targets = RANDOM.integers(0, 9, (3, 5))
    alone = model.probabilities(rows[1:2], targets[1:2])
    assert np.array_equal(model.probabilities(rows, targets)[1:2], alone)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_matches_are_the_longest_contexts_that_are_followed_by_something(order):
    tokens = np.append(text(80, 9), [8, 8])  # 8 comes at the end alone, and once before something
    rows = np.concatenate([RANDOM.integers(0, 9, (6, 7)), tokens[-7:][None]])
    seen = {tuple(tokens[i : i + k]) for k in range(order) for i in range(len(tokens) - k)}
    for row, line in zip(rows.tolist(), NGram(tokens, 9, order).matched(rows), strict=True):
        for place, found in enumerate(line.tolist()):
            contexts = [tuple(row[place + 1 - k : place + 1]) for k in range(min(order, place + 2))]
            assert found == max(k for k, context in enumerate(contexts) if context in seen)


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="order 5"):
        NGram(np.arange(4), 9, 5)
