"""Several devices: `run` starts one process for each, so that sweeps can use DDP too.

Lightning's own launcher runs `sys.argv` again in every process, which under `-m` is the whole
sweep. Here the job's config is saved and torch's launcher starts this module on it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from crystalline.devices import resolve_devices
from crystalline.errors import UserError
from crystalline.files import write_atomically
from crystalline.summary import Origin

_FAILURE = ".failure.txt"
_JOB = ".distributed.json"


def wants_launch(config: DictConfig) -> bool:
    """Whether several devices are wanted and no launcher (torchrun, SLURM) has started us."""
    launched = "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return not launched and resolve_devices(config.trainer).count > 1


def launch(config: DictConfig, origin: Origin) -> None:
    """Run the job in as many processes as devices, and wait.

    The processes form a session of their own, which gets a SIGTERM for whatever signal ends us:
    they save and end by themselves, within the 30 s that torch's launcher gives them. A second
    signal ends them at once.

    Raises:
        UserError: With the message of the process that failed first.
        SystemExit: With 128 + the signal's number, after a signal.
    """
    run_dir = Path(config.paths.run_dir)
    saved, failure = run_dir / _JOB, run_dir / _FAILURE
    failure.unlink(missing_ok=True)
    job = {"config": OmegaConf.to_container(config), "origin": asdict(origin)}
    write_atomically(saved, json.dumps(job))
    count = resolve_devices(config.trainer).count
    process = subprocess.Popen(
        [sys.executable, "-m", "crystalline.distributed", str(saved), str(count)],
        env=_environment(count),
        start_new_session=True,
    )
    received: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        os.killpg(process.pid, signal.SIGKILL) if received else process.terminate()
        received.append(number)

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in signals}
    try:
        status = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        saved.unlink(missing_ok=True)
    said = failure.read_text().strip() if failure.is_file() else f"exit status {status}"
    failure.unlink(missing_ok=True)
    if received:
        raise SystemExit(128 + received[0])
    if status:
        raise UserError(said)


def _environment(count: int) -> dict[str, str]:
    """Of processes that find this package and share the cores."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads}


def _start(saved: Path, count: int) -> None:
    """Torch's launcher, without its pages about a process that failed: that one has said why."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    processes = ["--standalone", f"--nproc-per-node={count}"]
    try:
        run(parse_args([*processes, "-m", "crystalline.distributed", str(saved)]))
    except (ChildFailedError, SignalException):
        sys.exit(1)


def _work(saved: Path) -> None:
    """One process of several: run the saved job."""
    from crystalline.command import register
    from crystalline.experiment import Experiment
    from crystalline.explain import explain

    register()
    rank = int(os.environ["RANK"])
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if rank == 0:
        handlers.append(logging.FileHandler(saved.with_name("run.log"), encoding="utf-8"))
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", handlers=handlers)
    job = json.loads(saved.read_text())
    try:
        Experiment(DictConfig(job["config"]), Origin(**job["origin"])).run()
    except Exception as error:
        failure = saved.with_name(_FAILURE)
        if not failure.exists():
            write_atomically(failure, explain(error))
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(1)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _start(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        _work(Path(sys.argv[1]))
