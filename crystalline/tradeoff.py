"""Pictures of results: what a sweep trades, the spread over seeds, curves of training."""

from __future__ import annotations

import io
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from crystalline.results import Row, score, swept_keys

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LABEL_WIDTH = 32  # characters
_LOG_RATIO = 20  # axes whose largest value is so many times the smallest are logarithmic
_FAR = 1.25  # rows beyond so many times the middle row are off the scale


def tradeoff_png(rows: Sequence[Row], x: str | None = None, split: str = "val") -> bytes | None:
    """Score of a sweep's jobs against what was swept, as a PNG; None without results.

    The horizontal axis is the swept number with the most values, else the entropy of the codes,
    else the number of parameters; every setting of the other swept keys is a line of its own. With
    `x`, a figure that some job has, the axis is that figure and the lines remain what they were:
    along each of them goes the swept number.

    Args:
        rows: The jobs.
        x: Figure of the summaries, such as "test/code_bits".
        split: Whose score: "val" or "test".
    """
    unit = score([row.summary for row in rows])
    finished = [row for row in rows if row.value(f"{split}/{unit}") is not None]
    if not finished:
        return None
    swept, positions = _horizontal(finished)
    axis = swept
    if x is not None and any(row.value(x) is not None for row in finished):
        axis, positions = x, [row.value(x) for row in finished]
    others = [key for key in swept_keys(finished) if key not in (swept, "seed")]
    lines: dict[str, list[tuple[float, float]]] = {}
    for row, place in zip(finished, positions, strict=True):
        y = row.value(f"{split}/{unit}")
        if place is not None and y is not None:
            name = ", ".join(f"{key}={row.overrides.get(key, '')}" for key in others)
            lines.setdefault(_wrapped(name), []).append((place, y))
    figure, axes = _figure(6.0, 4.0)
    for name, points in lines.items():
        xs, ys = zip(*sorted(points), strict=True)
        axes.plot(xs, ys, marker="o", label=name or None)
    _scale(axes, [place for points in lines.values() for place, _ in points])
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{split}/{unit}")
    if any(lines):
        axes.legend(fontsize="small")
    return _png(figure)


def spread_png(scores: Mapping[str, Sequence[float]], label: str) -> bytes:
    """A line for each row of a table: a dot for each seed, a bar at their mean; as a PNG.

    Rows far beyond the middle one stand at the edge with their mean in words; drawn to scale they
    would press all others together.
    """
    names = [_wrapped(name) for name in scores]
    lines = sum(name.count("\n") + 2 for name in names)
    figure, axes = _figure(7.0, 1.0 + 0.2 * lines)
    means = [statistics.fmean(values) for values in scores.values()]
    limit = _FAR * statistics.median(means)
    for height, (values, mean) in enumerate(zip(scores.values(), means, strict=True)):
        if mean > limit > 0:
            axes.annotate(
                f"{mean:.3f} \N{RIGHTWARDS ARROW}",
                (0.99, height),
                xycoords=axes.get_yaxis_transform(),
                ha="right",
                va="center",
            )
            continue
        axes.plot(values, [height] * len(values), "o", alpha=0.6)
        axes.plot([mean], [height], "|", color="black", markersize=18)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    return _png(figure)


Curve = Sequence[tuple[float, float]]


def curves_png(curves: Mapping[str, Sequence[Curve]], horizontal: str, vertical: str) -> bytes:
    """A colour for each name, a line for each of its curves of (x, y); as a PNG."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure(6.0, 4.0)
    for number, (name, lines) in enumerate(curves.items()):
        for index, line in enumerate(lines):
            label = name if index == 0 else None
            axes.plot(*zip(*line, strict=True), color=f"C{number}", label=label)
    if all(x == int(x) for lines in curves.values() for line in lines for x, _ in line):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return _png(figure)


Interval = tuple[float, float, float]
"""A value, and the ends of its interval."""


def points_png(
    points: Mapping[str, Sequence[tuple[float | None, float]]], horizontal: str, vertical: str
) -> bytes:
    """A colour for each name; a dot for each (x, y), a line at the mean of those without x."""
    names = [_wrapped(name) for name in points]
    lines = sum(name.count("\n") + 1 for name in names)
    figure, axes = _figure(9.0, max(4.0, 0.5 + 0.2 * lines))
    for count, (label, dots) in enumerate(zip(names, points.values(), strict=True)):
        colour, turn = f"C{count % 10}", count // 10 % 3
        placed = [(x, y) for x, y in dots if x is not None]
        if placed:
            axes.plot(*zip(*placed, strict=True), "osD"[turn], color=colour, label=label)
        if level := [y for x, y in dots if x is None]:
            dashes, mean = ("--", ":", "-.")[turn], statistics.fmean(level)
            named = None if placed else label
            axes.axhline(mean, linestyle=dashes, color=colour, label=named)
    _scale(axes, [x for dots in points.values() for x, _ in dots if x is not None])
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return _png(figure)


def intervals_png(
    groups: Sequence[str], bars: Mapping[str, Sequence[Interval]], vertical: str
) -> bytes:
    """For each group a bar of each kind, with its interval; as a PNG."""
    figure, axes = _figure(1.5 + 1.1 * len(groups), 4.0)
    width = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        places = [group + (number - (len(bars) - 1) / 2) * width for group in range(len(groups))]
        heights = [value for value, _, _ in values]
        errors = [[v - low for v, low, _ in values], [high - v for v, _, high in values]]
        axes.bar(places, heights, width, label=name, yerr=errors, capsize=2)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylabel(vertical)
    axes.legend(fontsize="small")
    return _png(figure)


def heat_png(
    values: Sequence[Sequence[float]],
    rows: Sequence[str] | None,
    columns: Sequence[str] | None,
    labels: tuple[str, str, str],
    cells: Sequence[Sequence[str]] | None = None,
) -> bytes:
    """A matrix as colours, 0 to 1, rows from the top; as a PNG.

    Args:
        values: Of each row; NaN stays empty.
        rows: Names; None numbers them.
        columns: Names; None numbers them.
        labels: Of the columns, the rows and the colours.
        cells: What to write into the fields.
    """
    from matplotlib.ticker import MaxNLocator

    down = max(3.0, 1.2 + 0.2 * len(values)) if rows else 6.0
    figure, axes = _figure(3.5 + 0.8 * len(columns) if columns else 8.0, min(down, 14.0))
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="none")
    if rows:
        axes.set_yticks(range(len(rows)), rows, fontsize="small")
    if columns:
        axes.set_xticks(range(len(columns)), columns, fontsize="small")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for row, texts in enumerate(cells or ()):
        for column, text in enumerate(texts):
            ink = "black" if values[row][column] > 0.5 else "white"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize="x-small",
                      parse_math=False)  # fmt: skip
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    figure.colorbar(image, label=labels[2])
    return _png(figure)


def _horizontal(rows: Sequence[Row]) -> tuple[str, list[float | None]]:
    """Name and values of the horizontal axis."""
    swept = {
        key: [_number(row.overrides.get(key)) for row in rows]
        for key in swept_keys(rows)
        if key != "seed"
    }
    numeric = {key: values for key, values in swept.items() if None not in values}
    if numeric:
        key = max(numeric, key=lambda name: len(set(numeric[name])))
        return key, numeric[key]
    entropies = [row.value("codebook/entropy") for row in rows]
    if None not in entropies:
        return "codebook/entropy", entropies
    return "parameters", [row.value("parameters") for row in rows]


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None


def _wrapped(name: str) -> str:
    return textwrap.fill(name, _LABEL_WIDTH, break_long_words=False, break_on_hyphens=False)


def _scale(axes: Axes, xs: Sequence[float]) -> None:
    positive = [x for x in xs if x > 0]
    if len(positive) > 1 and max(positive) > _LOG_RATIO * min(positive) and min(xs) >= 0:
        # Zero, as in a loss weight of 0, 0.001, 0.01, has its place left of the smallest value.
        axes.set_xscale("symlog", linthresh=min(positive)) if 0 in xs else axes.set_xscale("log")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure  # pyplot would look for a screen

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
