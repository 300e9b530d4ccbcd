"""The runtime, compiled once for all test processes: plain, and with sanitizers."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from crystalline.errors import UserError
from crystalline.export.runtime.build import build, compiler
from tests.crystalline.export.runtime.driving import Program

CPU = Path("/proc/cpuinfo")
LEFT_OUT = [] if not CPU.is_file() or "avx512bw" in CPU.read_text() else ["-DCRYSTAL_NO_AVX512"]
"""What this machine could not run need not be compiled."""


def _built(factory: pytest.TempPathFactory, name: str, sanitize: bool, *flags: str) -> Program:
    try:
        compiler()
    except UserError as error:
        pytest.skip(str(error))
    base = factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # of all test processes
    folder = shared / f"runtime-{name}"
    with FileLock(shared / f"runtime-{name}.lock"):
        program = folder / "crystal"
        if not program.is_file():
            build(folder, sanitize, [*flags, *LEFT_OUT])
    return Program(program)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """As users build it, not optimized."""
    return _built(tmp_path_factory, "plain", False, "-O0")


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Stops at a bad access or undefined operation."""
    return _built(tmp_path_factory, "sanitized", True, "-O0")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.crystal"
