import math

import pytest

from crystalline.metrics.rank_correlation import (
    difference_p,
    ranks,
    same_sign,
    spearman,
    trend_p,
)


def test_ranks_share_ties():
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1, 3.5, 2]


def test_rho_is_that_of_the_books():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * sum of squared differences / (n (n^2 - 1)) without ties
    x, y = [86, 97, 99, 100, 101, 103, 106, 110, 112, 113], [2, 20, 28, 27, 50, 29, 7, 17, 6, 12]
    assert spearman(x, y) == pytest.approx(-29 / 165)
    assert math.isnan(spearman([1, 2], [3, 3]))
    with pytest.raises(ValueError, match="2 and 3"):
        spearman([1, 2], [1, 2, 3])


def test_a_trend_in_every_run_is_not_chance_and_noise_is():
    falling = [[6, 5, 4, 3, 2, 1]] * 5
    assert trend_p(falling) < 0.001
    # One curve of three places: 2 of 6 orders are as steep.
    assert trend_p([[3, 2, 1]]) == pytest.approx(1 / 3, abs=0.02)
    assert trend_p([[1, 2, 3, 4], [4, 3, 2, 1]]) == pytest.approx(1)
    assert trend_p(falling) == trend_p(falling)
    assert math.isnan(trend_p([[1, 1, 1]]))


def test_a_difference_of_groups_is_counted_exactly():
    # 2 of 20 deals of six values into three and three are as far apart.
    assert difference_p([1, 2, 3], [4, 5, 6]) == pytest.approx(2 / 20)
    assert difference_p([1, 2], [1, 2]) == 1
    assert math.isnan(difference_p([], [1.0]))


def test_the_commoner_sign():
    assert same_sign([-1, -2, 3, -1, -5]) == pytest.approx(0.8)
    assert same_sign([0.0, 1.0]) == pytest.approx(0.5)
    assert math.isnan(same_sign([]))
