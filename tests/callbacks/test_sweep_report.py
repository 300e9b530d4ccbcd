"""A sweep leaves its report and its parent run, whatever becomes of its jobs."""

import json
import os
import sys
import threading
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from mlflow.tracking import MlflowClient

from callbacks.mlflow_connection import PARENT_VARIABLE
from callbacks.sweep_report import build_report
from crystalline.command import CONF_DIR, run
from crystalline.errors import UserError
from crystalline.files import write_atomically

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's

ROOT = """
defaults:
  - _self_
  - hydra: default
  - logger: none
k: 0
paths: {run_dir: "${hydra:runtime.output_dir}"}
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs a sweep over k = 1, 2, 3 whose second job fails; returns its folder and exit status."""
    import shutil

    conf = tmp_path / "conf"
    for group in ("hydra", "logger"):
        shutil.copytree(CONF_DIR / group, conf / group)
    (conf / "config.yaml").write_text(ROOT)
    monkeypatch.chdir(tmp_path)

    def sweep(*arguments):
        seen = []

        def task(config):
            seen.append(os.environ.get(PARENT_VARIABLE))
            if config.k == 2:
                raise UserError("k=2 is bad; use 3")
            folder = Path(HydraConfig.get().runtime.output_dir)
            summary = {"val/bpb": 1 / config.k, "test/bpb": 2 / config.k, "parameters": 5}
            (folder / "summary.json").write_text(json.dumps(summary))

        monkeypatch.setattr(sys, "argv", ["run", "-m", "k=1,2,3", *arguments])
        with pytest.raises(SystemExit) as stop:
            run(task, command="run", conf_dir=conf)
        (folder,) = (tmp_path / "multirun").glob("*/*")
        return folder, stop.value.code, seen

    return sweep


def test_a_sweep_with_a_failed_job_has_its_report(sweep):
    folder, status, parents = sweep()
    assert status == 1
    assert parents == [None, None, None]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["0", "1", "2"]
    assert (
        (folder / "results.csv").read_text().startswith("job,k,val/bpb,test/bpb,parameters,error\n")
    )
    page = (folder / "report.md").read_text()
    assert "| **2** | **3** |" in page
    assert "- job 1 (k=2): k=2 is bad; use 3" in page
    assert (folder / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_jobs_that_log_to_mlflow_get_a_parent_with_the_report(sweep, tmp_path):
    folder, _, parents = sweep("logger=mlflow", "logger.mlflow.experiment_name=mine")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id])
    assert parents == [parent.info.run_id] * 3
    assert parent.info.run_name == f"sweep {folder.name}"
    assert parent.info.status == "FAILED"  # one of its jobs did
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"results.csv", "report.md", "tradeoff.png"}
    assert PARENT_VARIABLE not in os.environ


def test_jobs_that_end_at_once_are_all_in_the_report(tmp_path):
    def end(job):
        folder = tmp_path / str(job)
        write_atomically(folder / ".hydra" / "overrides.yaml", f"[k={job}]")
        write_atomically(folder / "summary.json", json.dumps({"val/bpb": 1.0 + job}))  # as runs do
        build_report(tmp_path)

    threads = [threading.Thread(target=end, args=(job,)) for job in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len((tmp_path / "results.csv").read_text().splitlines()) == 9


def test_a_single_run_has_no_report(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run"])
    run(lambda config: None, command="run", conf_dir=tmp_path / "conf")
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert {path.name for path in folder.iterdir()} == {".hydra", "run.log"}
