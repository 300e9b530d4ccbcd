"""A connection to MLflow that several jobs may open at once where nothing exists yet."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_T = TypeVar("_T")
_SQLITE = "sqlite:///"
_jitter = random.SystemRandom()  # jobs of a sweep have seeded the common generator alike
PARENT_VARIABLE = "CRYSTALLINE_MLFLOW_PARENT"
"""Environment variable that holds the id of a sweep's parent run for its jobs."""
PARENT_TAG = "mlflow.parentRunId"
NAME_TAG = "mlflow.runName"


def connect(tracking_uri: str, experiment_name: str) -> tuple[MlflowClient, str]:
    """A client, and the id of the experiment, which is created where it does not exist.

    For SQLite the database is created under a file lock, since concurrent first starts break each
    other's migrations; artifacts go to `mlartifacts` beside it, where plain `mlflow ui` finds them.

    Args:
        tracking_uri: "sqlite:///<path>", relative to the working folder, or any other MLflow URI.
        experiment_name: The experiment's name.

    Raises:
        Exception: Whatever MLflow raises when it cannot be reached.
    """
    if not tracking_uri.startswith(_SQLITE):
        client = _client(tracking_uri)
        return client, _experiment(client, experiment_name, None)
    database = Path(tracking_uri.removeprefix(_SQLITE)).absolute()
    database.parent.mkdir(parents=True, exist_ok=True)
    artifacts = database.parent / "mlartifacts"
    with FileLock(database.with_name(f"{database.name}.lock")):
        client = _client(f"{_SQLITE}{database}")
        return client, _experiment(client, experiment_name, artifacts.as_uri())


def with_retries(action: Callable[[], _T], tries: int) -> _T:
    """The result of `action`, tried again after 0.2 s, 0.4 s, ... ("database is locked").

    Raises:
        Exception: What the last try raised.
    """
    for attempt in range(tries - 1):
        try:
            return action()
        except Exception as error:
            if is_refusal(error):
                raise
            time.sleep(0.2 * 2**attempt * _jitter.uniform(0.5, 1.5))
    return action()


def is_refusal(error: Exception) -> bool:
    """Whether MLflow has understood the request and will never accept it."""
    return getattr(error, "error_code", "") in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _client(tracking_uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    for name in ("alembic", "mlflow.store.db.utils"):  # a page of migrations at the first start
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient  # takes over a second

    return MlflowClient(tracking_uri)


def _experiment(client: MlflowClient, name: str, artifact_location: str | None) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    try:
        return client.create_experiment(name, artifact_location=artifact_location)
    except Exception:  # another job may have been faster
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return found.experiment_id
