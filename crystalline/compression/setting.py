"""The machine and the software that a model's scores depend on, to the last bit."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Setting:
    """What scores depend on, besides model and text."""

    device: str
    """Kind of device, and the instructions that it has: "cpu AVX2"."""
    threads: int
    torch: str
    """Version; likewise the others."""
    crystalline: str
    constriction: str

    @classmethod
    def here(cls) -> Setting:
        """Of this process.

        Raises:
            PackageNotFoundError: If `constriction` is missing.
        """
        import crystalline

        return cls(
            f"cpu {torch.backends.cpu.get_cpu_capability()}",
            torch.get_num_threads(),
            torch.__version__,
            crystalline.__version__,
            importlib.metadata.version("constriction"),
        )

    def differences(self, other: Setting) -> list[str]:
        """A phrase for each thing that is another in `other`."""
        mine, theirs = vars(self), vars(other)
        return [
            f"{name} {value} (here {theirs[name]})"
            for name, value in mine.items()
            if value != theirs[name]
        ]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads of the CPU inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
