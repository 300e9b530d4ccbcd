"""Compile the runtime with the C compiler that is there."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from crystalline.errors import UserError

SOURCES = Path(__file__).parent
"""Folder of the C files."""
LIBRARIES = ("-lm", "-pthread")
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
_PROGRAMS = {"crystal": ("cli", "options"), "crystal_fuzz": ("fuzz",)}


def build(folder: Path, sanitize: bool = False, flags: Sequence[str] = ("-O2",)) -> Path:
    """Compile the command line into a folder; returns its path.

    Args:
        folder: Made if it is not there.
        sanitize: Stop at the first bad access or undefined operation, at a third of the speed; the
            harness `crystal_fuzz` is then built too.
        flags: Of the compiler.

    Raises:
        UserError: Where there is no compiler, or it fails.
    """
    command = [*compiler(), "-std=c11", *flags, *(SANITIZE if sanitize else ())]
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    programs = {name: parts for name, parts in _PROGRAMS.items() if sanitize or name == "crystal"}
    own = {part for parts in _PROGRAMS.values() for part in parts}
    left_out = own - {part for parts in programs.values() for part in parts}
    with tempfile.TemporaryDirectory(dir=folder) as place:
        objects = Path(place)
        sources = [path for path in sorted(SOURCES.glob("*.c")) if path.stem not in left_out]
        run([*command, "-c", *map(str, sources)], objects)
        shared = [str(objects / f"{path.stem}.o") for path in sources if path.stem not in own]
        for name, parts in programs.items():
            extra = [str(objects / f"{part}.o") for part in parts]
            run([*command, "-o", str(folder / name), *extra, *shared, *LIBRARIES], objects)
    return folder / "crystal"


def compiler() -> list[str]:
    """Command of the C compiler: $CC, else cc, gcc or clang.

    Raises:
        UserError: Where there is none.
    """
    named = shlex.split(os.environ.get("CC", ""))
    for command in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    found = f"CC={shlex.join(named)} is not there" if named else "no cc, gcc or clang is there"
    raise UserError(f"the C runtime needs a C11 compiler, {found}; install one or set CC")


def run(command: Sequence[str], folder: Path) -> None:
    """Run a compiler in a folder.

    Raises:
        UserError: With its first error, if it fails.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.splitlines() or [f"status {done.returncode}"]
        said = next((line for line in lines if "error" in line), lines[0])
        raise UserError(f"{command[0]} cannot compile the C runtime: {said}")
