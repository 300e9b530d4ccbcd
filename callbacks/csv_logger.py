"""`metrics.csv`: a wide row for each step, readable while the run goes on, kept on resume."""

from __future__ import annotations

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from crystalline.files import write_atomically

_STEP = "step"


class CSVLogger(Logger):
    """Writes metrics to `<folder>/metrics.csv`; `step` (optimizer rounds done) comes first.

    What is logged at the step of the last row joins that row; a new metric becomes a column, for
    which the file is rewritten. Floats are written so that reading gives the same number back,
    hence equal numbers have equal text. A row is handed to the operating system as soon as it is
    logged: a killed process loses nothing but, at worst, a part of its last line.

    Without `resume_at`, the first row starts the file anew.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = [_STEP]
        self._last: dict[str, str] = {}  # the last row of the file, by column
        self._last_start = 0  # its first byte
        self._file: IO[bytes] | None = None
        self._resuming = False

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def resume_at(self, step: int) -> None:
        """Go on with the file of an earlier process, without its rows after `step`.

        Lines that a killed process left incomplete are dropped as well. The rounds after `step` are
        about to be repeated.
        """
        self._close()
        self._columns, rows = _read(self.path)
        kept = [row for row in rows if int(row[_STEP]) <= step]
        self._rewrite(kept)
        self._resuming = True

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Nothing: the run folder holds the config."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add numbers or 0-d tensors to the row of `step`; without a step, to the last row."""
        values = {name: _text(value) for name, value in metrics.items() if name != _STEP}
        row_step = self._last.get(_STEP, "0") if step is None else str(step)
        if self._file is None and not self._resuming:
            self._columns, self._last = [_STEP], {}
            self._rewrite([])
        same_row = self._last.get(_STEP) == row_step
        row = {**self._last, **values} if same_row else {_STEP: row_step, **values}
        self._add_columns(values)
        self._write_row(row, replace=same_row)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Everything is in the file already; a later `log_metrics` opens it again."""
        self._close()
        self._resuming = True

    def _add_columns(self, values: Mapping[str, str]) -> None:
        new = [name for name in values if name not in self._columns]
        if new:
            self._close()
            _, rows = _read(self.path)
            self._columns += new
            self._rewrite(rows)

    def _write_row(self, row: dict[str, str], *, replace: bool) -> None:
        if self._file is None:
            self._file = self.path.open("rb+")
        self._last_start = self._file.seek(self._last_start if replace else 0, 0 if replace else 2)
        self._file.write(_line([row.get(column, "") for column in self._columns]).encode())
        self._file.truncate()
        self._file.flush()
        self._last = row

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        """The whole file with the current columns."""
        lines = [_line(self._columns)]
        lines += [_line([row.get(column, "") for column in self._columns]) for row in rows]
        write_atomically(self.path, "".join(lines))
        self._last = rows[-1] if rows else {}
        self._last_start = sum(len(line.encode()) for line in lines[:-1])

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and complete rows of a file, if there is one; empty cells are left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]  # a killed process may have left a torn last line
    lines = list(csv.reader(io.StringIO(whole)))
    if not lines or lines[0][:1] != [_STEP]:
        return [_STEP], []
    columns = lines[0]
    complete = [line for line in lines[1:] if len(line) == len(columns) and line[0].isdigit()]
    return columns, [{c: v for c, v in zip(columns, line, strict=True) if v} for line in complete]


def _line(cells: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    return buffer.getvalue()


def _text(value: Any) -> str:
    number = value.item() if hasattr(value, "item") else value
    return repr(float(number)) if isinstance(number, float) else str(int(number))
