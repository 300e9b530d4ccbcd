"""What the jobs of a sweep have reached: rows, CSV, a Markdown table and a picture.

Everything is read from the jobs' folders, so it can be rebuilt at any time and by any process.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

PICTURE = "tradeoff.png"
DEAD = "codebook/dead_fraction"
BITS = "test/code_bits"
_ERROR_FILE = "error.txt"


@dataclass(frozen=True)
class Row:
    """One job of a sweep."""

    job: str
    """Name of its folder."""
    overrides: dict[str, str]
    """What its command line has set."""
    summary: dict[str, Any] | None
    """Its `summary.json`, once it has finished."""
    error: str | None
    """The line that it failed with."""

    def value(self, key: str) -> float | None:
        """A number of the summary; None where there is none."""
        return number((self.summary or {}).get(key))


def read_rows(folder: Path) -> list[Row]:
    """The jobs below a sweep's folder, in the order of their numbers."""
    jobs = [path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")]
    jobs.sort(key=lambda job: (not job.name.isdigit(), int(job.name) if job.name.isdigit() else 0))
    return [_read_row(job) for job in jobs]


def swept_keys(rows: Sequence[Row]) -> list[str]:
    """Overrides that differ between jobs; all of them when there is only one job."""
    keys = dict.fromkeys(key for row in rows for key in row.overrides)
    if len(rows) == 1:
        return list(keys)
    return [key for key in keys if len({row.overrides.get(key) for row in rows}) > 1]


def score(summaries: Sequence[Mapping[str, Any] | None]) -> str:
    """The unit of all summaries: "bpb", or "loss" where one has no bits per byte (fsm)."""
    with_bpb = [number(s.get("val/bpb")) is not None for s in summaries if s]
    return "bpb" if with_bpb and all(with_bpb) else "loss"


def best_row(rows: Sequence[Row]) -> Row | None:
    """The job with the lowest validation score: the test split has no say in choosing."""
    key = f"val/{score([row.summary for row in rows])}"
    scored = [(value, i) for i, row in enumerate(rows) if (value := row.value(key)) is not None]
    return rows[min(scored)[1]] if scored else None


def results_csv(rows: Sequence[Row]) -> str:
    """All jobs with all their overrides and every number of their summaries."""
    overrides = list(dict.fromkeys(key for row in rows for key in row.overrides))
    metrics = list(
        dict.fromkeys(
            key for row in rows for key, v in (row.summary or {}).items() if number(v) is not None
        )
    )
    # A metric may have the name of an override ("seed"); the override says it then.
    metrics = [key for key in metrics if key not in overrides]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["job", *overrides, *metrics, "error"])
    for row in rows:
        numbers = [(row.summary or {}).get(key) for key in metrics]
        cells = ["" if value is None else value for value in numbers]
        settings = [row.overrides.get(key, "") for key in overrides]
        writer.writerow([row.job, *settings, *cells, row.error or ""])
    return buffer.getvalue()


def report_markdown(rows: Sequence[Row], title: str) -> str:
    """The sweep as a page: a table of finished jobs, the best one in bold, and the failed ones."""
    finished = [row for row in rows if row.summary is not None]
    failed = [row for row in rows if row.error is not None]
    best = best_row(finished)
    unit = score([row.summary for row in finished])
    lines = [f"# {title}", "", f"{len(finished)} jobs finished, {len(failed)} failed."]
    if finished:
        metrics = [f"test/{unit}", f"val/{unit}", DEAD, "tokens_per_second", "parameters"]
        if any(row.value(BITS) is not None for row in finished):
            metrics.insert(2, BITS)
        keys = swept_keys(rows)
        header = ["job", *keys, *metrics]
        body = []
        for row in finished:
            cells = [row.job, *(row.overrides.get(key, "") for key in keys)]
            cells += [shown(metric, row.value(metric)) for metric in metrics]
            body.append([f"**{cell}**" for cell in cells] if row is best else cells)
        lines += ["", *markdown_table(header, body)]
        lines += ["", f"Bold: lowest val/{unit}.", "", f"![trade-off]({PICTURE})"]
    if failed:
        lines += ["", "## Failed", ""]
        lines += [f"- job {row.job} ({_settings(row)}): {row.error}" for row in failed]
    return "\n".join(lines) + "\n"


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table; bars within cells are escaped."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in [header, *body]]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return [lines[0], f"|{' --- |' * len(header)}", *lines[1:]]


def shown(metric: str, value: float | None) -> str:
    """A number as tables show it; "-" for none."""
    if value is None:
        return "-"
    if metric in ("tokens_per_second", "tokens_seen", "best_step") or "parameters" in metric:
        return f"{value:,.0f}"
    if "fraction" in metric:
        return f"{100 * value:.1f} %"
    return f"{value:.4f}"


def number(value: Any) -> float | None:
    """`value` as a float if it is a number, not a truth value; else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _read_row(job: Path) -> Row:
    lines = yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []
    split = (str(line).partition("=") for line in lines)
    summary, error = job / "summary.json", job / _ERROR_FILE
    has_failed = error.is_file()
    return Row(
        job=job.name,
        overrides={key.lstrip("+"): value for key, _, value in split},
        summary=_read_json(summary) if summary.is_file() and not has_failed else None,
        error=error.read_text(encoding="utf-8").strip() if has_failed else None,
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _settings(row: Row) -> str:
    return " ".join(f"{key}={value}" for key, value in row.overrides.items())
