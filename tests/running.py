"""Training runs of seconds: the `run` command in this process, and as a process of its own."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import lightning

ROOT = Path(__file__).resolve().parents[1]

MODELS = {
    "transformer": ("model=transformer", "model.num_layers=1"),
    "ziggurat": (
        "model=ziggurat",
        "model.layers_per_stage=[1,1]",
        "model.quantizer.codebook_size=8",
        "model.quantizer.num_codebooks=2",
        "model.quantizer.codebook_dim=8",
    ),
    "abstractinator": (
        "model=abstractinator",
        "model.quantizer.codebook_size=16",
        "model.quantizer.codebook_dim=8",
        "model.entropy={d_model: 8, num_layers: 1, num_heads: 2}",
        "model.top={d_model: 16, num_layers: 1, num_heads: 2}",
    ),
}
SMALL = ("model.d_model=16", "model.num_heads=2", "model.context_length=16")
QUIET = ("logger=csv", "~callbacks.bucket_dump", "~callbacks.text_samples", "trainer=cpu")
FSM = (  # 64 of the many sequences that are generated for evaluation
    "data.eval_batch_size=64",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
)
SHORT = (
    "trainer.max_steps=4",
    "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=4",
    "objective.schedule.warmup_steps=2",
    "callbacks.checkpoint.every_n_steps=4",
)


@dataclass(frozen=True)
class Finished:
    """What a command has left."""

    status: int
    folder: Path
    out: str = ""
    err: str = ""

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.folder / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    def column(self, name: str) -> list[str]:
        """The cells of a metric, as they were written; rows without it are left out."""
        return [row[name] for row in self.rows if row.get(name)]

    def losses(self) -> dict[tuple[str, str], str]:
        """Every loss of every logged round, as written, by (step, column)."""
        return {
            (row["step"], name): value
            for row in self.rows
            for name, value in row.items()
            if value and name.startswith(("loss/", "val/", "grad_norm/", "lr/", "codebook/"))
        }


def arguments(
    corpus: Path, folder: Path, *more: str, model: str = "ziggurat", data: str = "text"
) -> list[str]:
    """Of a tiny run; `more` comes last, so it wins."""
    source = {
        "text": [
            f"data.path={corpus}",
            "tokenizer@data.tokenizer=bytes",
            "data.eval_batch_size=64",
        ],
        "fsm": FSM,
    }
    return [
        *MODELS[model],
        *SMALL,
        f"data={data}",
        *source.get(data, []),
        "data.batch_size=4",
        *QUIET,
        *SHORT,
        f"hydra.run.dir={folder}",
        *more,
    ]


def command(name: str, folder: Path, *typed: str, main: Any = None) -> Finished:
    """`python -m crystalline.<name>` in this process; the caller captures the output."""
    import importlib

    module = importlib.import_module(f"crystalline.{name}")
    with patch.object(sys, "argv", [f"crystalline/{name}.py", *typed]):
        try:
            module.main()
        except SystemExit as stop:
            return Finished(int(stop.code or 0), folder)
    return Finished(0, folder)


def train(corpus: Path, folder: Path, *more: str, **choice: str) -> Finished:
    """A tiny run in this process."""
    return command("run", folder, *arguments(corpus, folder, *more, **choice))


def resume(checkpoint: Path, *more: str) -> Finished:
    """`ckpt_path=` alone, and what may be overridden."""
    folder = checkpoint.parents[1]
    return command("run", folder, f"ckpt_path={checkpoint}", *more)


def environment(**more: str) -> dict[str, str]:
    """Of a process that finds this checkout from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **more}


def process(name: str, cwd: Path, *typed: str, timeout_s: float = 240, **more: str) -> Finished:
    """The command as a user starts it, in the folder `cwd`."""
    done = subprocess.run(
        [sys.executable, "-m", f"crystalline.{name}", *typed],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=timeout_s,
    )
    return Finished(done.returncode, cwd, done.stdout, done.stderr)


def experiment(corpus: Path, folder: Path, *more: str, **choice: str) -> Any:
    """The parts of a tiny run, built but not started."""
    from hydra import compose, initialize_config_dir

    from crystalline.command import CONF_DIR, register
    from crystalline.experiment import Experiment
    from crystalline.summary import Origin

    register()
    typed = arguments(corpus, folder, *more, f"paths.run_dir={folder}", **choice)
    overrides = [argument for argument in typed if not argument.startswith("hydra.")]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("config", overrides)
    return Experiment(config, Origin("", {}, []))


class Poison(lightning.Callback):
    """Makes a weight NaN before round `step`; notes all weights then and at the end."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, step: int) -> None:
        self.step = step
        Poison.seen = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            weight = pl_module.model.get_parameter("stages.0.blocks.0.mlp.up.weight")
            weight.data[0, 0] = float("nan")
            self._note(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: Any) -> None:
        self._note(pl_module)

    def _note(self, pl_module: Any) -> None:
        state = pl_module.model.state_dict()
        Poison.seen.append({name: tensor.clone().nan_to_num(7) for name, tensor in state.items()})


class Stop(lightning.Callback):
    """Sends this process a signal in round `step`, unless CRYSTALLINE_TEST_NO_STOP is set."""

    def __init__(self, step: int, signal: str = "SIGTERM") -> None:
        self.step = step
        self.signal = signal

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and "CRYSTALLINE_TEST_NO_STOP" not in os.environ:
            os.kill(os.getpid(), getattr(signal, self.signal))


class StopStarter(Stop):
    """Sends the signal to the command that started the processes of this run, from rank 0."""

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            starter = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]
            os.kill(int(starter), getattr(signal, self.signal))
