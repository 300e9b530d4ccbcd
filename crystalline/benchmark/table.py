"""Rows of a benchmark as a text table, as JSON and as a picture."""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalline.benchmark.case import Case, Row
from crystalline.files import atomic_path, write_atomically
from crystalline.summary import command_line, device_name, versions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS: dict[str, Callable[[Row], str]] = {
    "ms": lambda row: _figure(row.median_ms),
    "quartiles": lambda row: f"{_figure(row.q1_ms)} .. {_figure(row.q3_ms)}",
    "faster": lambda row: _figure(row.times_faster, "x"),
    "MiB": lambda row: _figure(row.peak_mib),
    "smaller": lambda row: _figure(row.times_smaller, "x"),
    "equal": lambda row: _percent(row.agreement),
}
_LEGEND = """\
ms: median of the timed calls, and its quartiles; faster, smaller: time and memory of the row
marked * over this one's; MiB: most memory held at once during a call, beyond data and parameters;
equal: share of choices that are those of the reference search
"""


def text_table(rows: Sequence[Row], cases: Mapping[str, Case]) -> str:
    """A block of lines for each case, and what the columns mean."""
    width = max(len(row.contestant) for row in rows) + 2
    blocks = []
    for name, case in cases.items():
        lines = [f"{name}: {case.title}", " " * width + _aligned(_COLUMNS)]
        for row in rows:
            if row.case == name:
                mark = " *" if row.contestant == case.baseline else ""
                cells = _aligned(show(row) for show in _COLUMNS.values())
                said = f"  {row.note}" if row.note else cells
                lines.append(f"{row.contestant + mark:<{width}}{said}")
        blocks.append("\n".join(lines) + "\n")
    return "\n".join([*blocks, _LEGEND])


def setting(device: torch.device, packages: Sequence[str]) -> dict[str, Any]:
    """What figures depend on: command, device, precision of matrix products, versions."""
    found = versions()
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": command_line(),
        "device": device_name(device),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "versions": found,
    }


def write_json(
    path: Path, rows: Sequence[Row], cases: Mapping[str, Case], setting: Mapping[str, Any]
) -> None:
    """The setting, each case's title and baseline, and every row with the fields of `Row`."""
    said = {name: {"title": case.title, "baseline": case.baseline} for name, case in cases.items()}
    content = {**setting, "cases": said, "rows": [asdict(row) for row in rows]}
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def write_picture(path: Path, rows: Sequence[Row], cases: Mapping[str, Case]) -> None:
    """Bars as a PNG: a line of panels for each case, time on the left, memory on the right."""
    from matplotlib.figure import Figure  # pyplot would look for a screen

    groups = [[row for row in rows if row.case == name] for name in cases]
    heights = [len(group) + 2 for group in groups]
    figure = Figure(figsize=(10.0, 0.6 + 0.27 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(groups), 2, squeeze=False, height_ratios=heights)
    for (left, right), name, group in zip(panels, cases, groups, strict=True):
        left.set_title(f"{name}: {cases[name].title}", loc="left", fontsize="small")
        _bars(left, group, [(row.median_ms, row.q3_ms) for row in group], "ms")
        for height, row in enumerate(group):
            if row.q1_ms is not None and row.q3_ms is not None:
                left.plot([row.q1_ms, row.q3_ms], [height, height], color="black", linewidth=2)
        left.set_yticks(range(len(group)), [row.contestant for row in group], fontsize="small")
        _bars(right, group, [(row.peak_mib, row.peak_mib) for row in group], "MiB")
        right.set_yticks([])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _bars(
    axes: Axes,
    group: Sequence[Row],
    values: Sequence[tuple[float | None, float | None]],
    unit: str,
) -> None:
    """A bar for each row's first value; beyond the second one stands the figure, or the note."""
    families = [row.contestant.split(",")[0] for row in group]
    colours = [f"C{list(dict.fromkeys(families)).index(family)}" for family in families]
    axes.barh(range(len(group)), [value or 0 for value, _ in values], color=colours, alpha=0.6)
    axes.set_ylim(len(group) - 0.5, -0.5)
    axes.set_xlim(0, 1.2 * max(end or 0 for _, end in values) or 1)
    axes.set_xlabel(unit, fontsize="small")
    for height, (row, (value, end)) in enumerate(zip(group, values, strict=True)):
        said = row.note if value is None else _figure(value)
        axes.annotate(f" {said}", (end or 0, height), va="center", fontsize="small")


def _aligned(cells: Iterable[str]) -> str:
    widths = (9, 18, 10, 9, 10, 11)
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _percent(share: float | None) -> str:
    """Rounded down: only all is 100."""
    return "-" if share is None else f"{math.floor(1e5 * share) / 1e3:.3f} %"


def _figure(value: float | None, unit: str = "") -> str:
    """Three digits or all before the point."""
    if value is None:
        return "-"
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}{unit}"
