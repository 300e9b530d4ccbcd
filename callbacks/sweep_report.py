"""The report of a sweep, rebuilt whenever a job ends, and its parent run in MLflow."""

from __future__ import annotations

import atexit
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from callbacks.mlflow_connection import NAME_TAG, PARENT_VARIABLE, connect
from crystalline.errors import UserError
from crystalline.files import write_atomically
from crystalline.results import PICTURE, read_rows, report_markdown, results_csv
from crystalline.tradeoff import tradeoff_png

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)
_FILES = ("results.csv", "report.md", PICTURE, "verdict.md")


class SweepReport(Callback):
    """Keeps `results.csv`, `report.md` and `tradeoff.png` of a sweep's folder up to date.

    They are rebuilt at every job's end, failed jobs included, from the jobs' folders alone. If the
    jobs log to MLflow, their runs get a common parent, which receives these files at the end.

    Args:
        x: Figure of the summaries on the picture's horizontal axis, such as "test/code_bits"; null
            for the swept number with the most values.
        split: "val" or "test": whose score is on the vertical axis.

    Raises:
        UserError: If `split` is another.
    """

    def __init__(self, x: str | None, split: str) -> None:
        if split not in ("val", "test"):
            raise UserError(f"hydra.callbacks.sweep_report.split={split}: give val or test")
        self.x = x
        self.split = split
        self._folder: Path | None = None  # None: a single run
        self._parent: tuple[MlflowClient, str] | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        self._folder = Path(config.hydra.sweep.dir).absolute()
        node = _mlflow_node(config)
        if node is None:
            return
        try:
            client, experiment_id = connect(node.tracking_uri, node.experiment_name)
            run = client.create_run(experiment_id, tags={NAME_TAG: f"sweep {self._folder.name}"})
        except Exception as error:
            _log.warning("MLflow cannot be reached (%s); the sweep has no parent run", error)
            return
        self._parent = (client, run.info.run_id)
        os.environ[PARENT_VARIABLE] = run.info.run_id
        atexit.register(self._end_parent, "KILLED")  # Ctrl-C: Hydra does not call on_multirun_end

    def on_job_end(self, config: DictConfig, **_: Any) -> None:
        if self._folder is not None:
            build_report(self._folder, self.x, self.split)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        if self._folder is None:
            return
        failed = any(row.error for row in read_rows(self._folder))
        _log.info("results of the sweep: %s", os.path.relpath(self._folder / "report.md"))
        self._end_parent("FAILED" if failed else "FINISHED")

    def _end_parent(self, status: str) -> None:
        if self._parent is None or self._folder is None:
            return
        (client, run_id), self._parent = self._parent, None
        os.environ.pop(PARENT_VARIABLE, None)
        atexit.unregister(self._end_parent)
        try:
            for name in _FILES:
                if (self._folder / name).exists():
                    client.log_artifact(run_id, str(self._folder / name))
            client.set_terminated(run_id, status)
        except Exception as error:
            _log.warning("MLflow cannot be reached (%s); its parent run stays open", error)


def build_report(folder: Path, x: str | None = None, split: str = "val") -> None:
    """Write the three files of a sweep's folder from what its jobs have left there.

    Jobs of several processes may end at once: the file lock makes the last one see them all. For
    the picture's axes `x` and `split` see `tradeoff_png`.
    """
    with FileLock(folder / ".report.lock"):
        rows = read_rows(folder)
        write_atomically(folder / "results.csv", results_csv(rows))
        picture = tradeoff_png(rows, x, split)
        if picture is not None:
            write_atomically(folder / PICTURE, picture)
        title = f"Sweep {folder.parent.name} {folder.name}"
        write_atomically(folder / "report.md", report_markdown(rows, title))


def _mlflow_node(config: DictConfig) -> DictConfig | None:
    """The settings of the MLflow logger, if the jobs have one."""
    loggers = OmegaConf.select(config, "logger")
    for node in (loggers or {}).values():
        if OmegaConf.is_dict(node) and str(node.get("_target_")).endswith(".MLflowLogger"):
            return node
    return None
