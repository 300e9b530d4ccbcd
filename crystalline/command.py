"""What every command does around its task: compose the config, shorten the errors.

A command module is `main()` with one call of `run`, and a task that receives the composed config.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import MISSING, DictConfig, OmegaConf

from crystalline.arguments import prepare_arguments
from crystalline.errors import UserError
from crystalline.explain import explain
from crystalline.usage import usage

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"
"""The config groups; `conf` lies beside `crystalline` in a checkout and in an installed wheel."""

FULL_ERROR = "HYDRA_FULL_ERROR"
ERROR_FILE = "error.txt"
"""In the folder of a job that failed: the line that was shown."""


@dataclass
class Run:
    """The typed root of a training run: other top-level keys are errors, in YAML files too."""

    model: Any = MISSING
    objective: Any = MISSING
    data: Any = MISSING
    optimizer: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING
    paths: Any = MISSING
    seed: int = 0
    compile: bool = False
    cuda_graph: bool = False
    ckpt_path: str | None = None


@dataclass
class _Outcome:
    """What happened to the jobs of this call."""

    failures: list[Exception] = field(default_factory=list)


def run(
    task: Callable[[DictConfig], object],
    *,
    command: str,
    config_name: str = "config",
    text_keys: tuple[str, ...] = (),
    conf_dir: Path = CONF_DIR,
) -> None:
    """Run `task` on the config that `sys.argv` asks for; `-m` runs it once for every combination.

    The task may raise `UserError`: the user sees one line. Any other error is one line too, and its
    traceback is kept in the log file of the run folder. `HYDRA_FULL_ERROR=1` shows tracebacks.

    Args:
        task: Called with the config, without its `hydra` node.
        command: Name of the command, such as "generate"; it heads errors and names the log file.
        config_name: The root config in `conf_dir`, without ".yaml".
        text_keys: Top-level keys that hold free text; their values escape Hydra's grammar, and "-"
            reads standard input.
        conf_dir: The folder of config groups.

    Raises:
        SystemExit: With status 1 after an error, 130 after Ctrl-C.
    """
    register()
    show_all = os.environ.get(FULL_ERROR) == "1"
    arguments = sys.argv[1:]
    try:
        if {"--help", "-h"} & set(arguments):
            sys.stdout.write(usage(command, task.__module__, conf_dir, config_name))
            return
        prepared = prepare_arguments(arguments, text_keys, _has_key(conf_dir, config_name))
        outcome = _call_hydra(task, command, config_name, conf_dir, prepared, show_all)
    except KeyboardInterrupt:
        _interrupted(command)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit(1)
            _interrupted(command)
        raise
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        if show_all:
            raise
        _show(command, explain(error, conf_dir, config_name, arguments))
        raise SystemExit(1) from None
    if outcome.failures:
        raise SystemExit(1)


def _call_hydra(
    task: Callable[[DictConfig], object],
    command: str,
    config_name: str,
    conf_dir: Path,
    arguments: Sequence[str],
    show_all: bool,
) -> _Outcome:
    """Hand the arguments to Hydra; errors of composition are raised, those of jobs collected."""
    outcome = _Outcome()
    outside: dict[str, str | None] = {FULL_ERROR: os.environ.get(FULL_ERROR)}
    user_argv = sys.argv

    @functools.wraps(task)
    def job(config: DictConfig) -> object:
        # Inside the task, sys.argv and the environment are the user's: it may start processes.
        with _argv(user_argv), _environment(outside):
            return _run_job(task, config, command, outcome, show_all)

    # Hydra prints its own long messages unless it is told to raise.
    # Hydra's parser wants all overrides in one row, wherever its own flags stand.
    flags = [each for each in arguments if each.startswith("-") or not set(each) & {"=", "~"}]
    overrides = [each for each in arguments if each not in flags]
    arguments = [*flags, f"hydra.job.name={command}", *overrides]
    with _logging(), _argv([user_argv[0], *arguments]), _environment({FULL_ERROR: "1"}):
        hydra.main(config_path=str(conf_dir), config_name=config_name, version_base="1.3")(job)()
    return outcome


def _run_job(
    task: Callable[[DictConfig], object],
    config: DictConfig,
    command: str,
    outcome: _Outcome,
    show_all: bool,
) -> object:
    """One job. An error is noted, not raised: the other jobs of a sweep go on."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    if int(os.environ.get("RANK", "0")) > 0:
        logging.getLogger().setLevel(logging.WARNING)
    keeps_files = (folder / ".hydra").is_dir()  # not so where the folder is the user's own
    if keeps_files:
        (folder / ERROR_FILE).unlink(missing_ok=True)
    try:
        return task(config)
    except BrokenPipeError:  # `run` knows what to do
        raise
    except Exception as error:
        outcome.failures.append(error)
        line = explain(error)
        in_sweep = not OmegaConf.is_missing(settings.job, "num")
        prefix = f"job {settings.job.num}: " if in_sweep else ""
        if show_all:
            traceback.print_exc()
        else:
            _show(command, prefix + line)
        if keeps_files:
            _keep(folder, command, line, error)
        return None


def _keep(folder: Path, command: str, line: str, error: Exception) -> None:
    """Leave the line and the traceback in the folder of a job that failed."""
    with suppress(OSError):  # the disk may be full; the line is on the terminal
        (folder / ERROR_FILE).write_text(line + "\n", encoding="utf-8")
        with (folder / f"{command}.log").open("a", encoding="utf-8") as log:
            log.write("".join(traceback.format_exception(error)))


def register() -> None:
    ConfigStore.instance().store(name="run_schema", node=Run)
    OmegaConf.register_new_resolver("times", _times, replace=True)


def _times(*factors: Any) -> float:
    """Product of numbers: `${times:0.1,${optimizer.lr}}`.

    Raises:
        UserError: If a factor is none.
    """
    try:
        return math.prod(float(factor) for factor in factors)
    except (TypeError, ValueError):
        said = " and ".join("null" if each is None else str(each) for each in factors)
        raise UserError(f"a product of {said} is no number") from None


def _has_key(conf_dir: Path, config_name: str) -> bool:
    """Whether the root config resumes runs, that is, has the key `ckpt_path`."""
    path = conf_dir / f"{config_name}.yaml"
    if not path.is_file():
        return False
    root = OmegaConf.load(path)
    return OmegaConf.is_dict(root) and "ckpt_path" in root


def _show(command: str, line: str) -> None:
    sys.stderr.write(f"crystalline.{command}: {line}\n")
    sys.stderr.flush()


def _interrupted(command: str) -> None:
    _show(command, "interrupted")
    raise SystemExit(130) from None


@contextmanager
def _logging() -> Iterator[None]:
    """Give the root logger its handlers back afterwards, and close the log files of the jobs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)


@contextmanager
def _argv(arguments: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _environment(values: dict[str, str | None]) -> Iterator[None]:
    """Set or, for None, remove environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    _assign(values)
    try:
        yield
    finally:
        _assign(before)


def _assign(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
