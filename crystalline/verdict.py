"""Whether figures keep the limits that were set for them before they were measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from crystalline.errors import UserError
from crystalline.results import markdown_table, number

Outcome = Literal["pass", "fail", "not measured", "recorded"]
_KINDS = {"at_least": "\N{GREATER-THAN OR EQUAL TO}", "at_most": "\N{LESS-THAN OR EQUAL TO}"}


@dataclass(frozen=True)
class Limit:
    """What is asked of a figure: a number, or a line in another figure; or nothing."""

    figure: str
    kind: str | None = None
    """"at_least" or "at_most"; None: the figure is shown, whatever it is."""
    of: str | None = None
    """The other figure, if the bound is `times` it `plus` a number."""
    times: float = 1.0
    plus: float = 0.0

    def bound(self, figures: Mapping[str, Any]) -> float | None:
        """The number that the figure is held against; None if the other one is not there."""
        if self.of is None:
            return self.plus
        other = _measured(figures, self.of)
        return None if other is None else self.times * other + self.plus

    def __str__(self) -> str:
        if self.kind is None:
            return "-"
        sign = _KINDS[self.kind]
        if self.of is None:
            return f"{sign} {self.plus:g}"
        times = "" if self.times == 1 else f"{self.times:g} x "
        return f"{sign} {times}{self.of}" + (f" {self.plus:+g}" if self.plus else "")


@dataclass(frozen=True)
class Judged:
    """A figure beside one of its limits."""

    figure: str
    measured: float | str | None
    limit: str
    bound: float | None
    """The limit as a number."""
    derived: bool
    """Whether that number is made of another figure."""
    verdict: Outcome
    """A figure that is missing or no number is "not measured", never a pass."""


def read_limits(config: Mapping[str, Any], key: str) -> list[Limit]:
    """Limits from plain containers.

    `{figure: {at_least: 0.9}}`; a bound is a number, `{of: <figure>, times: 2, plus: 0.1}`, or a
    list of these. `{figure: {}}` sets none: the figure is recorded.

    Args:
        config: The limits by figure.
        key: What the config is called, for errors.

    Raises:
        UserError: If an entry says something else.
    """
    limits: list[Limit] = []
    for figure, entry in config.items():
        if not isinstance(entry, Mapping) or not set(entry) <= set(_KINDS):
            raise UserError(
                f"{key}: {figure}: {entry}: give at_least or at_most, each with a bound"
            )
        limits += [Limit(figure)] if not entry else []
        for kind, bounds in entry.items():
            for bound in bounds if isinstance(bounds, list | tuple) else [bounds]:
                limits.append(_limit(figure, kind, bound, f"{key}: {figure}.{kind}"))
    return limits


def judge(limits: Sequence[Limit], figures: Mapping[str, Any]) -> list[Judged]:
    """Every limit, in order, beside what was measured."""
    found = []
    for limit in limits:
        measured, bound = _measured(figures, limit.figure), limit.bound(figures)
        shown: Any = measured
        if limit.kind is None:
            shown = figures.get(limit.figure) if measured is None else measured
            verdict: Outcome = "not measured" if shown is None else "recorded"
        elif measured is None or bound is None:
            verdict = "not measured"
        else:
            kept = measured >= bound if limit.kind == "at_least" else measured <= bound
            verdict = "pass" if kept else "fail"
        asked = None if limit.kind is None else bound
        derived = limit.of is not None and bound is not None
        found.append(Judged(limit.figure, shown, str(limit), asked, derived, verdict))
    return found


def overall(judged: Sequence[Judged]) -> Outcome:
    """Fail if one limit fails, else not measured if one was not, else pass."""
    outcomes = {row.verdict for row in judged if row.limit != "-"}
    ranked: tuple[Outcome, ...] = ("fail", "not measured", "pass")
    for outcome in ranked:
        if outcome in outcomes:
            return outcome
    return "recorded"


def verdict_rows(judged: Sequence[Judged]) -> list[dict[str, str]]:
    """The table's cells."""
    rows = []
    for row in judged:
        limit = f"{row.limit} = {_shown(row.bound)}" if row.derived else row.limit
        cells = {"figure": row.figure, "measured": _shown(row.measured), "limit": limit}
        rows.append({**cells, "verdict": row.verdict})
    return rows


def verdict_markdown(judged: Sequence[Judged], title: str) -> str:
    """The verdict as a page."""
    rows = verdict_rows(judged)
    body = [list(row.values()) for row in rows]
    table = markdown_table(list(rows[0]), body) if rows else []
    return "\n".join([f"# {title}: {overall(judged)}", "", *table]) + "\n"


def verdict_json(judged: Sequence[Judged]) -> dict[str, Any]:
    """The verdict as plain containers."""
    return {"verdict": overall(judged), "limits": [asdict(row) for row in judged]}


def _limit(figure: str, kind: str, bound: Any, key: str) -> Limit:
    if number(bound) is not None:
        return Limit(figure, kind, plus=float(bound))
    if not isinstance(bound, Mapping) or not {"of"} <= set(bound) <= {"of", "times", "plus"}:
        raise UserError(f"{key}={bound}: give a number, or {{of: <figure>, times: ..., plus: ...}}")
    times, plus = number(bound.get("times", 1.0)), number(bound.get("plus", 0.0))
    if times is None or plus is None:
        raise UserError(f"{key}={bound}: times and plus are numbers")
    return Limit(figure, kind, str(bound["of"]), times, plus)


def _measured(figures: Mapping[str, Any], name: str) -> float | None:
    value = number(figures.get(name))
    return None if value is None or math.isnan(value) else value


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.5g}"
