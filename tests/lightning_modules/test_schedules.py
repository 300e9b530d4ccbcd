import math

import pytest

from lightning_modules.schedules import Schedule


def test_the_rate_rises_in_equal_steps_and_follows_a_cosine_down_to_its_final_fraction():
    factor = Schedule(warmup_steps=4, final_fraction=0.1).over(12)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == 1.0
    assert factor(8) == pytest.approx(0.1 + 0.9 * 0.5)  # half of the way down
    assert factor(6) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert factor(12) == pytest.approx(0.1)
    assert factor(50) == pytest.approx(0.1)


def test_a_constant_rate_stays_after_the_warm_up():
    factor = Schedule(shape="constant", warmup_steps=2).over(10)
    assert [factor(step) for step in range(10)] == [0.5, *[1.0] * 9]


def test_a_run_shorter_than_the_warm_up_still_reaches_its_full_rate():
    factor = Schedule(warmup_steps=100).over(10)
    assert factor(4) == 1.0
    assert max(factor(step) for step in range(10)) == 1.0


@pytest.mark.parametrize(
    "wrong", [{"shape": "linear"}, {"warmup_steps": -1}, {"final_fraction": 1.5}]
)
def test_numbers_out_of_range_are_refused_with_their_key(wrong):
    with pytest.raises(ValueError, match=r"objective\.schedule"):
        Schedule(**wrong)
