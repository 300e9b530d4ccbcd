"""`summary.json`: what a run came to, for tables and sweeps."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crystalline.files import write_atomically

_PACKAGES = ("torch", "lightning", "hydra-core", "tokenizers", "mlflow", "numpy")


@dataclass(frozen=True)
class Origin:
    """How a run was asked for."""

    command: str
    """What was typed last."""
    choices: dict[str, Any]
    """Option of every config group; a resumed run keeps those it started with."""
    overrides: list[str]
    """Overrides of the task; a resumed run keeps those it started with."""


def origin() -> Origin:
    """Of this job, where Hydra started it."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return Origin(command_line(), {}, [])
    settings = HydraConfig.get()
    choices = {k: v for k, v in settings.runtime.choices.items() if not k.startswith("hydra")}
    return Origin(command_line(), choices, list(settings.overrides.task))


def versions() -> dict[str, str]:
    """Of Python, this suite and what results depend on."""
    import crystalline

    found = {"python": platform.python_version(), "crystalline": crystalline.__version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command_line() -> str:
    """What was typed, without folders of this machine."""
    path = Path(sys.argv[0])
    name = path.parent.name if path.stem == "__main__" else path.stem
    return " ".join([f"python -m crystalline.{name}", *sys.argv[1:]])


def device_name(device: Any) -> str:
    """A GPU's product name, or the CPU's architecture and core count."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def write_summary(run_dir: Path, summary: dict[str, Any]) -> None:
    write_atomically(run_dir / "summary.json", json.dumps(summary, indent=2) + "\n")


def read_summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())
