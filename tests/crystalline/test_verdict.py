"""Limits are plain config, and what was not measured never passes."""

import pytest

from crystalline.errors import UserError
from crystalline.verdict import judge, overall, read_limits, verdict_json, verdict_markdown

FIGURES = {"loss": 1.18, "all": 0.9, "single": 0.4, "flag": True, "nan": float("nan"), "why": "k=8"}


def judged(limits):
    return judge(read_limits(limits, "limits"), FIGURES)


def verdicts(limits):
    return [row.verdict for row in judged(limits)]


def test_bounds_are_inclusive_and_a_figure_may_have_several():
    assert verdicts({"loss": {"at_most": 1.18, "at_least": 1.19}}) == ["pass", "fail"]
    several = {"all": {"at_least": [0.8, {"of": "single", "times": 2}, {"of": "loss"}]}}
    rows = judged(several)
    assert [row.verdict for row in rows] == ["pass", "pass", "fail"]
    assert [row.bound for row in rows] == [0.8, 0.8, 1.18]
    assert verdicts({"loss": {"at_most": {"of": "single", "times": 2, "plus": 0.4}}}) == ["pass"]
    assert verdicts({"loss": {"at_most": {"of": "single", "plus": 0.7}}}) == ["fail"]


@pytest.mark.parametrize("figure", ["unknown", "flag", "nan", "why"])
def test_what_is_no_measured_number_never_passes(figure):
    assert verdicts({figure: {"at_least": -1e9}}) == ["not measured"]
    assert verdicts({"loss": {"at_least": {"of": figure, "times": 0}}}) == ["not measured"]


def test_a_figure_without_a_bound_is_recorded_and_decides_nothing():
    rows = judged({"why": {}, "unknown": {}, "loss": {"at_most": 2}})
    assert [row.verdict for row in rows] == ["recorded", "not measured", "pass"]
    assert overall(rows) == "pass"
    assert overall(judged({"why": {}})) == "recorded"


def test_one_failure_fails_all_and_one_gap_leaves_all_open():
    good, gap, bad = {"at_least": 0.1}, {"at_most": 1}, {"at_most": 0.1}
    assert overall(judged({"all": good, "unknown": gap})) == "not measured"
    assert overall(judged({"all": good, "unknown": gap, "loss": bad})) == "fail"


def test_the_page_has_a_line_for_each_limit():
    rows = judged({"all": {"at_least": {"of": "single", "times": 2}}, "x": {"at_most": 3}})
    lines = verdict_markdown(rows, "Verdict").splitlines()
    assert lines[0] == "# Verdict: not measured"
    assert lines[4] == "| all | 0.9 | ≥ 2 x single = 0.8 | pass |"
    assert lines[5] == "| x | - | ≤ 3 | not measured |"
    assert verdict_json(rows)["limits"][0]["bound"] == 0.8


@pytest.mark.parametrize(
    ("limits", "line"),
    [
        ({"a": 3}, "limits: a: 3: give at_least or at_most"),
        ({"a": {"above": 3}}, "limits: a: {'above': 3}: give at_least or at_most"),
        ({"a": {"at_least": "x"}}, "limits: a.at_least=x: give a number, or {of: <figure>"),
        ({"a": {"at_least": {"times": 2}}}, "give a number, or {of: <figure>"),
        ({"a": {"at_least": {"of": "b", "times": None}}}, "times and plus are numbers"),
    ],
)
def test_a_limit_that_is_none_is_named(limits, line):
    with pytest.raises(UserError) as error:
        read_limits(limits, "limits")
    assert line in str(error.value)
