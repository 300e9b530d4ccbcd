"""Who starts the processes, and what comes back from them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from crystalline import distributed
from crystalline.errors import UserError
from crystalline.summary import Origin

ORIGIN = Origin("typed", {"model": "x"}, ["model=x"])


def config(devices: int, folder: Path):
    trainer = {"accelerator": "cpu", "devices": devices, "precision": None}
    return OmegaConf.create({"trainer": trainer, "paths": {"run_dir": str(folder)}, "seed": 3})


@pytest.fixture
def unlaunched(monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.multiprocessing.cpu_count", lambda: 4)


def test_processes_are_started_for_several_devices_unless_a_launcher_did(
    unlaunched, monkeypatch, tmp_path
):
    assert not distributed.wants_launch(config(1, tmp_path))
    assert distributed.wants_launch(config(2, tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert not distributed.wants_launch(config(2, tmp_path))
    monkeypatch.delenv("LOCAL_RANK")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert not distributed.wants_launch(config(2, tmp_path))


@pytest.fixture
def launcher(unlaunched, monkeypatch):
    """Runs Python code in the place of torch's launcher; the saved job's path is sys.argv[1]."""

    def replace_by(code: str) -> None:
        start = subprocess.Popen

        def popen(command, **options):
            assert command[1:3] == ["-m", "crystalline.distributed"]
            assert command[4] == "2"
            return start([sys.executable, "-c", code, command[3]], **options)

        monkeypatch.setattr(distributed.subprocess, "Popen", popen)

    return replace_by


def test_the_processes_get_the_config_and_who_asked_for_it(launcher, tmp_path):
    launcher("import shutil, sys; shutil.copy(sys.argv[1], sys.argv[1] + '.copy')")
    distributed.launch(config(2, tmp_path), ORIGIN)
    [copy] = tmp_path.iterdir()  # the job file itself is gone
    job = json.loads(copy.read_text())
    assert job["config"]["seed"] == 3
    assert Origin(**job["origin"]) == ORIGIN


def test_the_line_of_the_process_that_failed_is_raised(launcher, tmp_path):
    launcher(
        "import pathlib, sys\n"
        "pathlib.Path(sys.argv[1]).with_name('.failure.txt').write_text('seed=3: take 4\\n')\n"
        "sys.exit(1)"
    )
    with pytest.raises(UserError, match=r"^seed=3: take 4$"):
        distributed.launch(config(2, tmp_path), ORIGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_whatever_signal_ends_us_the_processes_are_asked_to_stop(launcher, tmp_path, name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    launcher(
        "import os, pathlib, signal, sys, time\n"
        "def stop(*_): pathlib.Path(sys.argv[1]).with_name('saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        f"os.kill(os.getppid(), {int(number)})\n"
        "time.sleep(60)"
    )
    with pytest.raises(SystemExit) as stopped:
        distributed.launch(config(2, tmp_path), ORIGIN)
    assert stopped.value.code == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert signal.getsignal(number) == before


def test_a_process_that_dies_without_a_word_is_reported_too(launcher, tmp_path):
    launcher("import os; os._exit(7)")
    with pytest.raises(UserError, match="exit status 7"):
        distributed.launch(config(2, tmp_path), ORIGIN)
