"""Pictures that a results page asks for: one figure of its runs over another.

    <!-- picture: test/bpb over test/code_bits; 1,500 rounds -->
    <!-- /picture -->

Rows count whose names hold the words after the semicolon; without it, all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crystalline.errors import UserError
from crystalline.files import write_atomically
from crystalline.results import number
from crystalline.tradeoff import points_png

_MARKERS = re.compile(
    r"<!-- picture: (?P<y>\S+) over (?P<x>\S+?)(?:; (?P<rows>.+?))? -->\n"
    r"(?:!\[.*\n)?<!-- /picture -->"
)


def draw_pictures(text: str, summaries: Sequence[Mapping[str, Any]], page: Path) -> str:
    """The page's text with its pictures, which are written beside `page`.

    A dot is a run, a colour a row; rows without the horizontal figure are a line at their mean.

    Raises:
        UserError: If no run of the rows that are asked for has both figures.
    """

    def draw(found: re.Match[str]) -> str:
        x, y, wanted = found["x"], found["y"], found["rows"] or ""
        points: dict[str, list[tuple[float | None, float]]] = {}
        for summary in summaries:
            value = number(summary.get(y))
            if wanted in summary["row"] and value is not None:
                name = summary["row"].replace(f", {wanted}", "")
                points.setdefault(name, []).append((number(summary.get(x)), value))
        if not any(place is not None for dots in points.values() for place, _ in dots):
            rows = f" of a row with {wanted!r}" if wanted else ""
            raise UserError(f"{page}: no run{rows} has both {y} and {x}")
        picture = page.with_name(f"{page.stem}_{x.rsplit('/', 1)[-1]}.png")
        write_atomically(picture, points_png(points, x, y))
        begin = found[0].partition("\n")[0]
        return f"{begin}\n![{y} over {x}]({picture.name})\n<!-- /picture -->"

    return _MARKERS.sub(draw, text)
