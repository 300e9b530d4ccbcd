"""The verdict on a sweep: what its jobs say together, beside limits; rebuilt when a job ends."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from crystalline.files import write_atomically
from crystalline.results import Row, read_rows
from crystalline.text_table import text_table
from crystalline.verdict import (
    Judged,
    Limit,
    judge,
    overall,
    read_limits,
    verdict_json,
    verdict_markdown,
    verdict_rows,
)

_log = logging.getLogger(__name__)


class SweepVerdict(Callback):
    """Writes `verdict.md` and `verdict.json` in a sweep's folder.

    Args:
        measure: `measure(rows)`: figures of all jobs together, numbers or words.
        limits: By figure; see `read_limits`. Figures without one are recorded.

    Raises:
        UserError: If a limit is none.
    """

    def __init__(
        self, measure: Callable[[Sequence[Row]], Mapping[str, Any]], limits: Mapping[str, Any]
    ) -> None:
        self.measure = measure
        self.limits = read_limits(limits, "hydra.callbacks.sweep_verdict.limits")
        self._folder: Path | None = None  # None: a single run

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._folder = Path(config.hydra.sweep.dir).absolute()

    def on_job_end(self, config: DictConfig, **_: Any) -> None:
        if self._folder is not None:
            self.conclude(self._folder)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if self._folder is not None:
            judged = self.conclude(self._folder)
            page = os.path.relpath(self._folder / "verdict.md")
            table = text_table(verdict_rows(judged)) if judged else ""
            _log.info("verdict on the sweep: %s (%s)\n%s", overall(judged), page, table)

    def conclude(self, folder: Path) -> list[Judged]:
        """Write both files from what the jobs have left; the lock lets jobs end at once."""
        with FileLock(folder / ".verdict.lock"):
            figures = self.measure(read_rows(folder))
            asked = {limit.figure for limit in self.limits}
            others = [Limit(name) for name in figures if name not in asked]
            judged = judge([*self.limits, *others], figures)
            write_atomically(folder / "verdict.md", verdict_markdown(judged, "Verdict"))
            text = json.dumps(verdict_json(judged), indent=1) + "\n"
            write_atomically(folder / "verdict.json", text)
        return judged
