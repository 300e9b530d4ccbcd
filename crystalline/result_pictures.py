"""Pictures that a results page asks for: one figure of its runs over another.

    <!-- picture: test/bpb over test/code_bits; 1,500 rounds -->
    <!-- /picture -->

Rows count that have the part after the semicolon, of the parts between their commas and spaces;
without it, all. What stands between the two markers is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crystalline.errors import UserError
from crystalline.results import number
from crystalline.tradeoff import points_png

END = "<!-- /picture -->"
_BEGIN = r"<!--\s*picture:\s*(?P<y>.+?)\s+over\s+(?P<x>.+?)\s*(?:;\s*(?P<part>.+?)\s*)?-->"
_MARKERS = re.compile(rf"(?P<begin>{_BEGIN})(?:(?!<!--).)*{END}", re.DOTALL)


def pictures(
    text: str, summaries: Sequence[Mapping[str, Any]], page: Path
) -> tuple[str, dict[Path, bytes]]:
    """The page's text with its pictures in place, and what each of their files holds.

    A dot is a run, a colour a row; runs without the horizontal figure are a line at their mean.

    Raises:
        UserError: If a marker is not as above or has no partner, no run has both figures, runs are
            of several editions of the data, or two pictures would be one file.
    """
    drawn: dict[Path, bytes] = {}

    def draw(found: re.Match[str]) -> str:
        x, y, part = found["x"], found["y"], found["part"]
        name = "_".join(figure.rsplit("/", 1)[-1].replace(" ", "_") for figure in (y, "over", x))
        picture = page.with_name(f"{page.stem}_{name}.png")
        if picture in drawn:
            raise UserError(f"two pictures would be {picture.name}")
        drawn[picture] = points_png(_points(summaries, x, y, part), x, y)
        return f"{found['begin']}\n![{y} over {x}]({picture.name})\n{END}"

    text, count = _MARKERS.subn(draw, text)
    if not count == len(re.findall(r"<!--\s*picture\b", text)) == text.count(END):
        raise UserError(f"a picture needs <!-- picture: <y> over <x> --> and, below it, {END}")
    return text, drawn


def _points(
    summaries: Sequence[Mapping[str, Any]], x: str, y: str, part: str | None
) -> dict[str, list[tuple[float | None, float]]]:
    """Of every row."""
    points: dict[str, list[tuple[float | None, float]]] = {}
    editions = set()
    for summary in summaries:
        parts, value = summary["row"].split(", "), number(summary.get(y))
        if value is None or part not in (None, *parts):
            continue
        name = ", ".join(each for each in parts if each != part) or summary["row"]
        points.setdefault(name, []).append((number(summary.get(x)), value))
        editions.add(summary.get("data_fingerprint"))
    of_rows = f" of a row with {part!r}" if part else ""
    if not any(place is not None for dots in points.values() for place, _ in dots):
        raise UserError(f"no run{of_rows} has both {y} and {x}")
    if len(editions) > 1:
        raise UserError(f"runs{of_rows} are of several editions of the data: name fewer rows")
    return points
