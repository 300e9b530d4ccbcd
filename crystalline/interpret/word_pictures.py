"""Pictures of what `crystalline.words` has read."""

from __future__ import annotations

import math
from typing import Any

from crystalline.tradeoff import curves_png, heat_png, intervals_png

_POSITIONS = 40
"""Of the text, that a picture has room for, one below the other."""
_ACROSS = 20
"""Beside each other."""
_ROWS = 40
"""Tables and choices that a picture has room for."""
_PAIRS = 3
"""Of each table."""

Rows = list[dict[str, Any]]


def pictures(found: dict[str, Any]) -> dict[str, bytes]:
    """PNGs by name, of what there is to show.

    `text`: the likeliest word of each state. `depth`: how far states are from the output. `parts`:
    what each part pushes the next token by. `pairs`: the strongest pairs of each table. `programs`:
    which ways were taken. `tests`: how well the lens predicts what a change does.

    Args:
        found: The tables, with names for words.
    """
    made = {"text": _text(found["text"]), "depth": _depth(found["lens"])}
    if len(found["text"]) > 1:
        made["parts"] = _parts(found["text"], found["parts"])
    if found["maps"]:
        made["pairs"] = _pairs(found["maps"])
    if found["programs"]:
        made["programs"] = _programs(found["programs"])
    if found["tests"]:
        made["tests"] = _tests(found["tests"])
    return made


def _text(rows: Rows) -> bytes:
    text = rows[:_POSITIONS]
    return heat_png(
        [[state["probability"][0] for state in row["states"]] for row in text],
        [_label(row["token"]) for row in text],
        [f"x_{depth}" for depth in range(len(text[0]["states"]))],
        ("state", "text", "probability of the likeliest word"),
        [[_plain(state["top"][0]) for state in row["states"]] for row in text],
    )


def _depth(lens: dict[str, Rows]) -> bytes:
    curves = {
        name: [[(float(row["depth"]), row["kl"]) for row in rows]] for name, rows in lens.items()
    }
    return curves_png(curves, "passes", "KL(lens || output), nats")


def _parts(text: Rows, parts: Rows) -> bytes:
    """A push u of a score changes the odds of a word by e^u, so colours are e^u / (1 + e^u)."""
    known = text[:-1][:_ACROSS]  # what comes after the last token is not known
    names = [row["part"] for row in parts if row["part"] in known[0]["parts"]]
    pushes = [[row["parts"][name]["next_push"] for row in known] for name in names]
    return heat_png(
        [[(1 + math.tanh(push / 2)) / 2 for push in row] for row in pushes],
        names,
        [_label(row["next"]) for row in known],
        ("next token", "part", "chance of the next token if it was 1/2 before"),
        [[f"{push:+.1f}" for push in row] for row in pushes],
    )


def _pairs(maps: Rows) -> bytes:
    """From which word to which, in the tables with the strongest pairs.

    All pushes are of one unit, and so are all scores (gap -1): colours compare each with its like.
    """
    listed = [_listed(row) for row in maps]
    most = {-1: 0.0, 1: 0.0}
    for row, pairs in zip(maps, listed, strict=True):
        most[_sign(row["gap"])] = max([most[_sign(row["gap"])], *(abs(m) for _, _, m in pairs)])
    sizes = [
        [abs(m) / (most[_sign(row["gap"])] or 1.0) for _, _, m in pairs]
        for row, pairs in zip(maps, listed, strict=True)
    ]
    strongest = sorted(range(len(maps)), key=lambda at: -max(sizes[at], default=0.0))[:_ROWS]
    names, values, cells = [], [], []
    for at in sorted(strongest):
        missing = 2 * (_PAIRS - len(listed[at]))
        pmi = maps[at]["pmi"]
        said = "" if math.isnan(pmi) else f", PMI {pmi:+.2f}"
        names.append(f"{maps[at]['map']}, gap {maps[at]['gap']}{said}")
        values.append([size for size in sizes[at] for _ in range(2)] + missing * [math.nan])
        pairs = [(_plain(a), f"{'-' if m < 0 else '+'} {_plain(b)}") for a, b, m in listed[at]]
        cells.append([word for pair in pairs for word in pair] + missing * [""])
    ends = [f"{which} {number + 1}" for number in range(_PAIRS) for which in ("from", "to")]
    labels = ("strongest pairs", "table", "|M[from, to]| over the largest push, or score")
    return heat_png(values, names, ends, labels, cells)


def _listed(row: dict[str, Any]) -> list[list[Any]]:
    """The strongest pairs of a table; where words meet themselves alone, a word and itself."""
    return (row["pairs"] or [[word, word, value] for word, value in row["own"]])[:_PAIRS]


def _sign(gap: int) -> int:
    return 1 if gap > 0 else -1


def _programs(programs: Rows) -> bytes:
    shown = programs[:_ROWS]
    ways = list(dict.fromkeys(way for row in shown for way in row["usage"]))
    usage = [[row["usage"].get(way, math.nan) for way in ways] for row in shown]
    cells = [["" if math.isnan(share) else f"{share:.2f}" for share in row] for row in usage]
    return heat_png(
        usage, [row["choice"] for row in shown], ways, ("way", "choice", "mean share"), cells
    )


def _tests(tests: Rows) -> bytes:
    bars: dict[str, list[tuple[float, float, float]]] = {}
    for row in tests:
        name = f"{row['change']}, {row['coordinates']}"
        bars.setdefault(name, []).append((row["faithful"], row["low"], row["high"]))
    passes = list(dict.fromkeys(f"after {row['pass']}" for row in tests))
    return intervals_png(passes, bars, "correlation of predicted and measured change")


def _plain(name: str) -> str:
    """In letters that every font has."""
    return name.encode("ascii", "backslashreplace").decode()


def _label(name: str) -> str:
    """The same for an axis, where dollars would begin a formula."""
    return _plain(name).replace("$", r"\$")
