"""Command-line arguments as a user types them, made into overrides that Hydra can read."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from crystalline.errors import UserError

_PATH_KEYS = ("ckpt_path", "checkpoint", "baseline", "add", "input", "output")
_OPTIONS = (
    *("--help", "--hydra-help", "--version", "--info", "--shell-completion"),
    *("--run", "--multirun", "--experimental-rerun", "--cfg", "--resolve", "--package"),
    *("--config-path", "--config-name", "--config-dir"),
)


def prepare_arguments(
    arguments: Sequence[str], text_keys: Sequence[str] = (), resumes: bool = False
) -> list[str]:
    """Quote free text and paths, and let a resumed run go on in its own folder.

    Args:
        arguments: What follows the program's name.
        text_keys: Keys of free text.
        resumes: Whether `ckpt_path` continues a run: its file must then exist.

    Raises:
        UserError: For an option that no command has, or a checkpoint that is not there.
    """
    _check_options(arguments)
    prepared = [_prepare(argument, text_keys) for argument in arguments]
    return prepared + (_resumed_folder(arguments) if resumes else [])


def quote(text: str) -> str:
    r"""`text` as a value that Hydra reads back unchanged: quoted, with `${` and quotes escaped."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)  # OmegaConf would interpolate `${`
    return QuotedString(literal, Quote.double).with_quotes()


def _check_options(arguments: Sequence[str]) -> None:
    for argument in arguments:
        name = argument.split("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in _OPTIONS):
            mend = (
                f"write {name.lstrip('-').replace('-', '_')}=<value>" if name != "--" else "drop it"
            )
            raise UserError(f"unknown option {name}; {mend} (--help lists the keys)")


def _prepare(argument: str, text_keys: Sequence[str]) -> str:
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals:
        return argument
    if name in text_keys:
        text = sys.stdin.read() if value == "-" else value
        if text == "???":
            raise UserError(f"{name}=??? means 'missing' in a config; write it with a space")
        return f"{key}={quote(text)}"
    if name in _PATH_KEYS and Path(value).exists():
        return f"{key}={quote(value)}"
    return argument


def _resumed_folder(arguments: Sequence[str]) -> list[str]:
    """Overrides that keep a resumed run in the folder of its checkpoint."""
    values = dict(a.lstrip("+").split("=", 1) for a in arguments if "=" in a and a[0] != "-")
    checkpoint = values.get("ckpt_path", "null").strip("'\"")
    if checkpoint in ("", "null") or {"-m", "--multirun"} & set(arguments):
        return []
    path = Path(checkpoint)
    if not path.is_file():
        raise UserError(f"ckpt_path={checkpoint}: no such file; give <run>/checkpoints/last.ckpt")
    if "hydra.run.dir" in values:
        return []
    parent = path.absolute().parent
    folder = parent.parent if parent.name == "checkpoints" else parent
    return [f"hydra.run.dir={quote(str(folder))}", "hydra.output_subdir=null"]
