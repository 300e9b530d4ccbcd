"""Suites of speed and memory: the cases of a suite, one after the other."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from crystalline.benchmark.case import Case, compare
from crystalline.benchmark.table import setting, text_table, write_json, write_picture
from crystalline.errors import UserError
from crystalline.explain import suggest
from crystalline.from_config import from_config
from crystalline.generate import number

log = logging.getLogger(__name__)


def benchmark(config: DictConfig) -> None:
    """Run the suite's cases; the table goes to standard output, JSON and a picture to `output`.

    Raises:
        UserError: For an unknown case or device, a device that is not here, or a number below 1.
    """
    rules = {key: _at_least_one(config, key) for key in ("warmup", "repeats", "limit_s")}
    device = _device(config.device)
    cases = _chosen(from_config(config.suite), config.cases, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, for all who multiply through torch
    output = Path(config.output)
    rows = []
    for name, case in cases.items():
        log.info("%s: %s", name, case.title)
        rows += compare(name, case, device, **rules)
    sys.stdout.write(text_table(rows, cases))
    packages = {package for case in cases.values() for package in case.packages}
    write_json(output, rows, cases, {**setting(device, sorted(packages)), **rules})
    picture = output.with_suffix(".png")
    write_picture(picture, rows, cases)
    log.info("written to %s and %s", output, picture)


def _at_least_one(config: DictConfig, key: str) -> int:
    value = number(config, key, int)
    if value < 1:
        raise UserError(f"{key}={value}: give 1 or more")
    return value


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise UserError(f"device must be auto, cpu or cuda, got {name!r}")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise UserError(
            "device=cuda: this machine has no GPU that torch can use; take device=cpu or auto"
        )
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def _chosen(
    suite: dict[str, Case], names: Sequence[str] | None, device: torch.device
) -> dict[str, Case]:
    """The cases that were named, whatever their devices, or all that list this device."""
    if names is None:
        left = [name for name, case in suite.items() if device.type not in case.devices]
        if left:
            log.info("not for a %s unless cases= names them: %s", device.type, ", ".join(left))
        return {name: case for name, case in suite.items() if name not in left}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in suite:
            raise UserError(f"cases: there is no {name!r}{suggest(str(name), suite)}")
    return {name: suite[name] for name in names}
