import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalline.errors import UserError
from datamodules.windows import (
    OverlapWindows,
    RandomWindows,
    ShuffleWindows,
    make_windows,
)

SIZES = st.integers(1, 9).flatmap(lambda t: st.tuples(st.just(t), st.integers(t + 1, 60)))


def scored(starts, seq_len, num_tokens):
    """How often each token is a target."""
    targets = (starts[:, None] + 1 + np.arange(seq_len)) % num_tokens
    return np.bincount(targets.ravel(), minlength=num_tokens)


@given(sizes=SIZES, seed=st.integers(0, 9), epoch=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_shuffle_scores_every_token_once_an_epoch(sizes, seed, epoch):
    seq_len, num_tokens = sizes
    windows = ShuffleWindows(num_tokens, seq_len, seed)
    count = windows.num_windows
    starts = np.concatenate([windows.starts(epoch * count + i, 1) for i in range(count)])
    times = scored(starts, seq_len, num_tokens)
    assert times.max() == 1
    assert (times == 0).sum() == num_tokens % seq_len


@given(
    kind=st.sampled_from(["shuffle", "random", "overlap"]),
    seed=st.integers(0, 9),
    rounds=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    batch_size=st.integers(1, 12),
)
@settings(max_examples=20, deadline=None)
def test_starts_are_a_function_of_seed_and_round(kind, seed, rounds, batch_size):
    used = make_windows(kind, 50, 7, seed, stride=3)
    for round_ in rounds:
        fresh = make_windows(kind, 50, 7, seed, stride=3)
        starts = used.starts(round_, batch_size)
        assert starts.tolist() == fresh.starts(round_, batch_size).tolist()
        assert starts.shape == (batch_size,)
        assert starts.min() >= 0
        assert starts.max() < 50


@pytest.mark.parametrize("kind", ["shuffle", "random", "overlap"])
def test_another_seed_gives_another_order(kind):
    first, second = (make_windows(kind, 1000, 7, seed, stride=3) for seed in (0, 1))
    assert first.starts(0, 32).tolist() != second.starts(0, 32).tolist()


def test_batches_run_across_the_borders_of_epochs():
    windows = ShuffleWindows(50, 7, seed=0)  # 7 windows an epoch
    by_three = np.concatenate([windows.starts(r, 3) for r in range(7)])
    one_by_one = np.concatenate([windows.starts(r, 1) for r in range(21)])
    assert by_three.tolist() == one_by_one.tolist()


def test_every_epoch_has_its_own_phase_and_order():
    windows = ShuffleWindows(1003, 10, seed=0)
    epochs = [windows.epoch(e) for e in range(4)]
    assert len({int(e[0]) % 10 for e in epochs}) > 1
    assert len({tuple(np.argsort(e)) for e in epochs}) == 4


def test_overlap_reads_every_stride_once_an_epoch():
    windows = OverlapWindows(50, 7, seed=0, stride=5)
    starts = windows.starts(0, windows.num_windows)
    assert sorted(starts.tolist()) == [0, 5, 10, 15, 20, 25, 30, 35, 40]


def test_random_starts_cover_the_stream():
    windows = RandomWindows(50, 7, seed=0)
    assert set(windows.starts(3, 2000).tolist()) == set(range(50))


def test_bad_orders_are_user_errors():
    with pytest.raises(UserError, match=r"data\.windows must be shuffle, random or overlap"):
        make_windows("shufle", 50, 7, 0, stride=1)
    with pytest.raises(UserError, match=r"data\.stride"):
        make_windows("overlap", 50, 7, 0, stride=0)


def test_a_stream_shorter_than_a_window_raises():
    with pytest.raises(ValueError, match="needs a stream of more"):
        ShuffleWindows(7, 7, 0)
