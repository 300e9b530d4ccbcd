"""Several devices: `run` starts one process for each, so that sweeps can use DDP too.

Lightning's own launcher runs `sys.argv` again in every process, which under `-m` is the whole
sweep. Here the job's config is saved and torch's launcher starts this module on it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from crystalline.devices import resolve_devices
from crystalline.errors import UserError
from crystalline.files import write_atomically

_FAILURE = ".failure.txt"
_CONFIG = ".distributed.yaml"


def wants_launch(config: DictConfig) -> bool:
    """Whether several devices are wanted and no launcher (torchrun, SLURM) has started us."""
    launched = "LOCAL_RANK" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return not launched and resolve_devices(config.trainer).count > 1


def launch(config: DictConfig) -> None:
    """Run the job in as many processes as devices, and wait.

    Raises:
        UserError: With the message of the process that failed first.
    """
    run_dir = Path(config.paths.run_dir)
    saved, failure = run_dir / _CONFIG, run_dir / _FAILURE
    failure.unlink(missing_ok=True)
    write_atomically(saved, OmegaConf.to_yaml(config))
    count = resolve_devices(config.trainer).count
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={count}", "-m", "crystalline.distributed", str(saved)),
    ]
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": threads}
    process = subprocess.Popen(command, env=environment)
    previous = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = _wait(process)
    finally:
        signal.signal(signal.SIGTERM, previous)
        saved.unlink(missing_ok=True)
    if status:
        said = failure.read_text().strip() if failure.is_file() else f"exit status {status}"
        failure.unlink(missing_ok=True)
        raise UserError(said)


def _wait(process: subprocess.Popen[Any]) -> int:
    """Exit status; Ctrl-C has reached the processes too, which save and end by themselves."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def main() -> None:
    """One process of several: run the saved config."""
    from crystalline.command import register
    from crystalline.experiment import Experiment
    from crystalline.explain import explain

    register()
    saved = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    config = OmegaConf.load(saved)
    assert isinstance(config, DictConfig)
    try:
        Experiment(config).run()
    except Exception as error:
        failure = saved.with_name(_FAILURE)
        if not failure.exists():
            write_atomically(failure, explain(error))
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.exit(1)


if __name__ == "__main__":
    main()
