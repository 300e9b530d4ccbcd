"""Metrics, config and files to MLflow, in batches from a background thread.

Single writes to SQLite make some 15 a second each when eight jobs share it; batches make thousands.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import time
from argparse import Namespace
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.mlflow_connection import (
    NAME_TAG,
    PARENT_TAG,
    PARENT_VARIABLE,
    connect,
    is_refusal,
    with_retries,
)

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)
_METRICS_PER_BATCH = 1000  # MLflow's limits
_PARAMS_PER_BATCH = 100
_LONGEST_VALUE = 6000
_LONGEST_KEY = 250
_TRIES = 6  # about 6 s of waiting, besides the 5 s that SQLite waits for a lock itself

_Work = Callable[["MlflowClient", str], None]


class MLflowLogger(Logger):
    """Sends a run to MLflow without ever stopping it.

    What is logged waits in a queue that a background thread empties every `flush_every_s` seconds,
    and `flush` at once. When MLflow cannot be reached, one warning says so; the queue is kept and
    tried again later, and `metrics.csv` has everything anyway. Only rank 0 logs. The jobs of a
    sweep appear below its parent run, which the variable CRYSTALLINE_MLFLOW_PARENT names.

    Args:
        tracking_uri: "sqlite:///mlflow.db" lies in the folder where the command was started.
        experiment_name: Experiment that the run belongs to; created when new.
        run_name: Shown in MLflow's table; None names the run after its folder.
        run_id: A run to go on with, as a checkpoint names it; None makes a new run, and so does
            a run that this MLflow does not have (a checkpoint may come from elsewhere).
        tags: Further tags of the run.
        folder: The run folder.
        flush_every_s: Seconds between writes.
    """

    def __init__(
        self,
        tracking_uri: str = "sqlite:///mlflow.db",
        experiment_name: str = "crystalline",
        run_name: str | None = None,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        folder: str | Path | None = None,
        flush_every_s: float = 10.0,
    ) -> None:
        super().__init__()
        if flush_every_s <= 0:
            raise ValueError(f"flush_every_s must be above 0, got {flush_every_s}")
        self._uri = tracking_uri
        self._experiment_name = experiment_name
        self._run_id = run_id
        self._tags = {str(key): str(value) for key, value in (tags or {}).items()}
        if PARENT_VARIABLE in os.environ:
            self._tags[PARENT_TAG] = os.environ[PARENT_VARIABLE]
        # MLflow draws names from Python's generator: jobs with one seed would share a name.
        name = run_name or "/".join(Path(folder or Path.cwd()).absolute().parts[-2:])
        self._tags[NAME_TAG] = name
        self._flush_every_s = flush_every_s
        self._client: MlflowClient | None = None
        self._metrics: deque[tuple[str, float, int, int]] = deque()  # name, value, ms, step
        self._work: deque[_Work] = deque()
        self._writing = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._unreachable = False

    @property
    def name(self) -> str:
        return self._experiment_name

    @property
    def version(self) -> str | None:
        return self._run_id

    @property
    @rank_zero_only
    def run_id(self) -> str | None:
        """Id of the run, which is created when needed; None as long as MLflow cannot be reached."""
        if self._run_id is None:
            self.flush()
        return self._run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Queue numbers or 0-d tensors."""
        now_ms = int(time.time() * 1000)
        for name, value in metrics.items():
            number = float(value.item() if hasattr(value, "item") else value)
            self._metrics.append((_clean(name), number, now_ms, step or 0))
        self._start_thread()

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Queue the resolved config: each value as a parameter, and all of it as `config.yaml`.

        A resumed run keeps the parameters it has: MLflow does not let them change.
        """
        config = vars(params) if isinstance(params, Namespace) else dict(params)
        text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        self._work.append(lambda client, run_id: _log_params(client, run_id, config))
        self._work.append(lambda client, run_id: client.log_text(run_id, text, "config.yaml"))
        self._start_thread()

    @rank_zero_only
    def log_artifact(self, local_path: Path, artifact_path: str = "") -> None:
        """Queue a file for the folder `artifact_path` of the run's artifacts."""

        def send(client: MlflowClient, run_id: str) -> None:
            if Path(local_path).exists():
                client.log_artifact(run_id, str(local_path), artifact_path or None)

        self._work.append(send)
        self._start_thread()

    @rank_zero_only
    def flush(self) -> None:
        """Write all that waits, now; called at checkpoints, so that no step is resumed unlogged."""
        with self._writing:
            try:
                self._drain(1 if self._unreachable else _TRIES)
                self._unreachable = False
            except Exception as error:
                self._warn(error)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write all that waits and mark the run finished or failed; logging may go on after it."""
        mlflow_status = "FINISHED" if status == "success" else "FAILED"
        self._work.append(lambda client, run_id: client.set_terminated(run_id, mlflow_status))
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=60)
            self._thread = None
        self.flush()
        atexit.unregister(self.flush)

    def _start_thread(self) -> None:
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._write_regularly, daemon=True)
            self._thread.start()
            atexit.register(self.flush)

    def _write_regularly(self) -> None:
        while not self._stop.wait(self._flush_every_s):
            self.flush()

    def _drain(self, tries: int) -> None:
        if self._client is None:
            self._client = with_retries(self._open, tries)
        client, run_id = self._client, self._run_id
        assert run_id is not None
        while self._metrics:
            waiting = min(len(self._metrics), _METRICS_PER_BATCH)
            batch = [self._metrics[i] for i in range(waiting)]
            _attempt(lambda b=batch: _log_batch(client, run_id, b), tries)
            for _ in batch:
                self._metrics.popleft()
        while self._work:
            work = self._work[0]
            _attempt(lambda w=work: w(client, run_id), tries)
            self._work.popleft()

    def _open(self) -> MlflowClient:
        client, experiment_id = connect(self._uri, self._experiment_name)
        if self._run_id is not None:
            try:
                client.update_run(self._run_id, status="RUNNING")
            except Exception as error:
                if getattr(error, "error_code", "") != "RESOURCE_DOES_NOT_EXIST":
                    raise
                _log.warning(
                    "MLflow at %s has no run %s; it gets a new one", self._uri, self._run_id
                )
                self._run_id = None
        if self._run_id is None:
            self._run_id = client.create_run(experiment_id, tags=self._tags).info.run_id
        return client

    def _warn(self, error: Exception) -> None:
        if not self._unreachable:
            first_line = (str(error).splitlines() or [""])[0]
            _log.warning(
                "MLflow at %s does not answer (%s: %s); training goes on, metrics.csv has it all",
                self._uri,
                type(error).__name__,
                first_line,
            )
        self._unreachable = True


def _attempt(action: Callable[[], None], tries: int) -> None:
    """Do it, with retries; what MLflow refuses for good is reported and left out."""
    try:
        with_retries(action, tries)
    except Exception as error:
        if not is_refusal(error):
            raise
        _log.warning("MLflow refused an entry: %s", (str(error).splitlines() or [""])[0])


def _log_batch(client: MlflowClient, run_id: str, batch: list[tuple[str, float, int, int]]) -> None:
    from mlflow.entities import Metric

    client.log_batch(run_id, metrics=[Metric(*entry) for entry in batch])


def _log_params(client: MlflowClient, run_id: str, config: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    flat = ((_clean(key)[:_LONGEST_KEY], str(value)) for key, value in flatten(config))
    new = [Param(key, value[:_LONGEST_VALUE]) for key, value in flat if key not in known]
    for start in range(0, len(new), _PARAMS_PER_BATCH):
        client.log_batch(run_id, params=new[start : start + _PARAMS_PER_BATCH])


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of a nested mapping; an empty mapping is a value."""
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        else:
            yield name, value


def _clean(name: str) -> str:
    """`name` with the characters that MLflow refuses replaced."""
    return re.sub(r"[^\w./ :-]", "_", name)
