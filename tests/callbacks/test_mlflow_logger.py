"""MLflow gets every metric, from any number of jobs at once, and never stops a run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from callbacks.mlflow_connection import PARENT_VARIABLE, with_retries
from callbacks.mlflow_logger import MLflowLogger, flatten

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the jobs start; one database for all tests here, since making one takes seconds."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def client(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def history(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def test_metrics_config_and_files_arrive_and_the_run_ends(client, folder):
    logger = MLflowLogger(run_name="first", tags={"note": "x"}, flush_every_s=60.0)
    settings = {f"key_{i}": i for i in range(230)}
    logger.log_hyperparams({"model": {"size": 3, "long": "x" * 7000}, **settings})
    for step in range(1200):
        logger.log_metrics({"loss/total": torch.tensor(step / 3, dtype=torch.float64)}, step)
    logger.log_metrics({"codebook/usage/stages.0.quantizer": 0.5, "odd{name}": 1}, 7)
    file = folder / "buckets.txt"
    file.write_text("many")
    logger.log_artifact(file, "buckets")
    logger.finalize("success")
    run = client.get_run(logger.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first"
    assert run.data.tags["note"] == "x"
    assert run.data.params["model.size"] == "3"
    assert run.data.params["key_229"] == "229"
    assert len(run.data.params["model.long"]) == 6000
    assert history(client, logger.run_id, "loss/total") == [(s, s / 3) for s in range(1200)]
    assert history(client, logger.run_id, "codebook/usage/stages.0.quantizer") == [(7, 0.5)]
    assert history(client, logger.run_id, "odd_name_") == [(7, 1.0)]
    artifacts = folder / "mlartifacts" / logger.run_id / "artifacts"
    assert (artifacts / "buckets" / "buckets.txt").read_text() == "many"
    assert (artifacts / "config.yaml").read_text().startswith("model:\n  size: 3\n")


def test_the_thread_writes_without_being_asked(client):
    logger = MLflowLogger(flush_every_s=0.05)
    run_id = logger.run_id
    logger.log_metrics({"loss/total": 1.5}, 3)
    for _ in range(100):
        if history(client, run_id, "loss/total"):
            break
        logger._stop.wait(0.05)
    assert history(client, run_id, "loss/total") == [(3, 1.5)]
    logger.finalize("success")


def test_a_resumed_run_goes_on_with_its_parameters(client):
    first = MLflowLogger()
    first.log_hyperparams({"max_steps": 10})
    first.log_metrics({"loss/total": 2.0}, 1)
    first.finalize("failed")
    assert client.get_run(first.run_id).info.status == "FAILED"
    second = MLflowLogger(run_id=first.run_id)
    second.log_hyperparams({"max_steps": 20, "new": 1})
    second.log_metrics({"loss/total": 1.0}, 2)
    second.flush()
    run = client.get_run(first.run_id)
    assert run.info.status == "RUNNING"
    assert run.data.params == {"max_steps": "10", "new": "1"}
    assert history(client, first.run_id, "loss/total") == [(1, 2.0), (2, 1.0)]
    second.finalize("success")
    second.log_metrics({"test/loss": 3.0}, 2)  # a test after the fit
    second.finalize("success")
    assert history(client, first.run_id, "test/loss") == [(2, 3.0)]


def test_a_run_that_was_resumed_where_mlflow_does_not_know_it_gets_a_new_one(client, caplog):
    logger = MLflowLogger(run_id="0" * 32)
    logger.log_metrics({"loss/total": 2.0}, 1)
    logger.finalize("success")
    assert logger.run_id != "0" * 32
    assert history(client, logger.run_id, "loss/total") == [(1, 2.0)]
    assert "has no run 000" in caplog.text


def test_the_jobs_of_a_sweep_name_their_parent(client, monkeypatch):
    parent = MLflowLogger(run_name="sweep")
    monkeypatch.setenv(PARENT_VARIABLE, parent.run_id or "")
    child = MLflowLogger(folder="multirun/2026-01-01/12-30-00/3")
    child_run = client.get_run(child.run_id)
    assert child_run.info.run_name == "12-30-00/3"
    assert child_run.data.tags["mlflow.parentRunId"] == parent.run_id


def test_a_dead_mlflow_gets_one_warning_and_the_metrics_when_it_lives_again(
    client, monkeypatch, caplog
):
    logger = MLflowLogger(flush_every_s=60.0)
    assert logger.run_id is not None
    working = logger._client

    class Dead:
        def __getattr__(self, name):
            raise ConnectionError("nobody\nthere")

    monkeypatch.setattr("callbacks.mlflow_connection.time.sleep", lambda s: None)
    logger._client = Dead()  # pyright: ignore[reportAttributeAccessIssue]
    logger.log_metrics({"loss/total": 1.0}, 1)
    logger.flush()
    logger.log_metrics({"loss/total": 2.0}, 2)
    logger.flush()
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "does not answer (ConnectionError: nobody)" in warnings[0]
    assert "metrics.csv has it all" in warnings[0]
    logger._client = working
    logger.finalize("success")
    assert history(client, logger.run_id, "loss/total") == [(1, 1.0), (2, 2.0)]


def test_an_unreachable_mlflow_does_not_stop_the_start(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr("callbacks.mlflow_connection.time.sleep", lambda s: None)
    (tmp_path / "a_file").touch()
    logger = MLflowLogger(tracking_uri=f"sqlite:///{tmp_path}/a_file/mlflow.db")
    logger.log_metrics({"loss/total": 1.0}, 1)
    assert logger.run_id is None
    logger.finalize("success")
    assert sum("does not answer" in record.message for record in caplog.records) == 1


def test_what_is_locked_is_tried_again_and_what_is_refused_is_not(monkeypatch):
    monkeypatch.setattr("callbacks.mlflow_connection.time.sleep", lambda s: None)
    errors = [MlflowException("database is locked"), MlflowException("database is locked")]

    def locked():
        if errors:
            raise errors.pop()
        return "written"

    assert with_retries(locked, tries=3) == "written"
    calls = []

    def refused():
        calls.append(1)
        raise MlflowException("no", error_code=1000)  # INVALID_PARAMETER_VALUE

    with pytest.raises(MlflowException):
        with_retries(refused, tries=3)
    assert len(calls) == 1


def test_nested_settings_get_dotted_names():
    assert dict(flatten({"a": {"b": [1], "c": {}}, "d": None})) == {
        "a.b": [1],
        "a.c": {},
        "d": None,
    }


JOBS = """
import os, sys
import mlflow.store.tracking.sqlalchemy_store  # imported once, before the jobs part
from callbacks.mlflow_logger import MLflowLogger

def job(number):
    logger = MLflowLogger(run_name=f"job {number}", flush_every_s=0.5)
    for step in range(300):
        logger.log_metrics({"a": step, "b": -step}, step)
    logger.finalize("success")

children = []
for number in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        job(number)
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] for child in children) != 0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 8])
def test_first_starts_at_once_lose_no_metric(tmp_path, count):
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", JOBS, str(count)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("crystalline")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name or "" for run in runs) == [f"job {i}" for i in range(count)]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert history(client, run.info.run_id, "a") == [(step, step) for step in range(300)]
        assert history(client, run.info.run_id, "b") == [(step, -step) for step in range(300)]
