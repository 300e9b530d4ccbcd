"""Rows of a learning benchmark as a text table, as JSON, as a page and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crystalline.files import atomic_path, finite, write_atomically
from crystalline.results import markdown_table
from crystalline.summary import command_line, versions
from crystalline.text_table import text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"model": "C0", "transformer": "C1", "n-gram": "C2", "reference": "C7"}
LEGEND = """\
val loss in nats a token and bpb, bits a byte, over the whole validation split; train loss on a part
of the training split as large; tokens/s: median while training; MiB: most memory held by the run
"""


@dataclass(frozen=True)
class Row:
    """One contestant; None where there is no such figure."""

    name: str
    kind: str
    """model, transformer, n-gram or reference."""
    parameters: int | None = None
    """Counts, of n-grams."""
    val_loss: float | None = None
    """Nats a token, as all losses."""
    val_bpb: float | None = None
    """Bits a byte of text."""
    train_loss: float | None = None
    steps: int | None = None
    tokens: int | None = None
    """Read in training."""
    tokens_per_second: float | None = None
    peak_memory_mib: float | None = None
    seconds: float | None = None
    """From the causality test to the last evaluation."""
    status: str = ""
    """See `curve.status`; "failed" where there is an error."""
    error: str = ""
    curve: tuple[tuple[int, float], ...] = ()
    """(round, validation loss) while training."""


def ranked(rows: Sequence[Row]) -> list[Row]:
    """By validation loss; those without one last."""
    return sorted(rows, key=lambda r: _finite(r.val_loss, math.inf))


def cells(row: Row) -> dict[str, str]:
    """What tables show of a row, by column."""
    return {
        "": row.name,
        "parameters": _whole(row.parameters),
        "steps": _whole(row.steps),
        "tokens": _whole(row.tokens),
        "val loss": _decimal(row.val_loss),
        "bpb": _decimal(row.val_bpb),
        "train loss": _decimal(row.train_loss),
        "tokens/s": _whole(row.tokens_per_second),
        "MiB": _whole(row.peak_memory_mib),
        "s": _whole(row.seconds),
        "status": f"{row.status}: {row.error}" if row.error else row.status,
    }


def text(rows: Sequence[Row]) -> str:
    """For a terminal."""
    return text_table([cells(row) for row in ranked(rows)]) + "\n\n" + LEGEND


def write_json(output: Path, rows: Sequence[Row]) -> None:
    """Command, versions, and every row with the fields of `Row`."""
    content = {
        "command": command_line(),
        "versions": versions(),
        "rows": [asdict(row) for row in ranked(rows)],
    }
    write_atomically(output, json.dumps(finite(content), indent=2) + "\n")


def write_page(output: Path, rows: Sequence[Row]) -> None:
    """The table in Markdown and the picture, beside the JSON."""
    table = [cells(row) for row in ranked(rows)]
    lines = markdown_table(list(table[0]), [list(each.values()) for each in table])
    page = [f"`{command_line()}`", "", *lines, "", LEGEND, f"![curves]({_picture(output).name})"]
    write_atomically(output.with_suffix(".md"), "\n".join(page) + "\n")


def write_picture(output: Path, rows: Sequence[Row]) -> None:
    """Validation scores as bars, references as lines; how losses fell, beside them."""
    from matplotlib.figure import Figure  # pyplot would look for a screen

    scored = [row for row in ranked(rows) if math.isfinite(_finite(row.val_loss, math.inf))]
    figure = Figure(figsize=(13.0, 1.5 + 0.27 * max(len(scored), 8)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    _bars(left, scored)
    for row in scored:
        if row.curve:
            style = "--" if row.kind == "transformer" else "-"
            right.plot(*zip(*row.curve, strict=True), style, label=row.name, linewidth=1)
        elif row.kind == "n-gram":
            right.axhline(_finite(row.val_loss, 0.0), color=COLOURS[row.kind], linewidth=0.5)
    right.set_xlabel("round", fontsize="small")
    right.set_ylabel("validation loss, nats a token", fontsize="small")
    if any(row.curve for row in scored):
        right.legend(fontsize="x-small", ncols=2)
    with atomic_path(_picture(output)) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})


def _bars(axes: Axes, rows: Sequence[Row]) -> None:
    """Bits a byte, or nats a token where there are no bytes."""
    in_bytes = all(row.val_bpb is not None for row in rows)
    values = [_finite(row.val_bpb if in_bytes else row.val_loss, 0.0) for row in rows]
    trained = [i for i, row in enumerate(rows) if row.kind != "reference"]
    axes.barh(trained, [values[i] for i in trained],
              color=[COLOURS[rows[i].kind] for i in trained], alpha=0.6)  # fmt: skip
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        if row.kind == "reference":
            axes.axvline(value, color=COLOURS[row.kind], linestyle="--", linewidth=1)
        axes.annotate(f" {value:.3f} {row.status}", (value, place), va="center", fontsize="x-small")
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.25 * max(values, default=1.0))
    axes.set_xlabel("bits a byte" if in_bytes else "nats a token", fontsize="small")


def _picture(output: Path) -> Path:
    return output.with_suffix(".png")


def _finite(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or not math.isfinite(value) else value


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
