"""Checkpoints that stand alone: what is in one, and how a model comes out of it again."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.export import container, model_file
from crystalline.files import atomic_path, write_atomically
from crystalline.tokenizer import Tokenizer, tokenizer_from_json

FORMAT = 1
"""Raised whenever an older reader would misunderstand the "crystalline" entry."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to be used."""

    model: LanguageModel
    """In eval mode, on the CPU."""
    tokenizer: Tokenizer
    config: dict[str, Any]
    """The resolved configuration it was trained with, `paths` those of this machine."""
    checkpoint: dict[str, Any]
    """The "crystalline" entry: format, config (with its interpolations), choices, overrides,
    tokenizer, vocab_size, data_fingerprint, mlflow_run_id, versions."""
    step: int
    """Rounds it was trained for."""


def load(path: str | Path) -> Loaded:
    """Rebuild model and tokenizer from a checkpoint alone.

    Raises:
        UserError: If the file is missing, damaged or not a checkpoint of this suite.
    """
    return rebuilt(read(path), path)


def rebuilt(state: Mapping[str, Any], path: str | Path) -> Loaded:
    """Model and tokenizer of a checkpoint that was read from `path`.

    Raises:
        UserError: If its weights are another model's than its config says.
    """
    from omegaconf import OmegaConf

    from crystalline.command import register
    from crystalline.from_config import from_config

    register()  # of resolvers that the config may use
    entry = state["crystalline"]
    config = OmegaConf.create(entry["config"])
    model = from_config(config.model, vocab_size=entry["vocab_size"])
    fill(model, state, path)
    tokenizer = tokenizer_from_json(entry["tokenizer"])
    resolved: Any = OmegaConf.to_container(config, resolve=True)
    return Loaded(model.eval(), tokenizer, resolved, entry, state.get("global_step", 0))


def fill(model: LanguageModel, state: Mapping[str, Any], path: str | Path) -> None:
    """Give the model the weights of a checkpoint that was read from `path`.

    Raises:
        UserError: If they are another model's.
    """
    try:
        model.load_state_dict(model_weights(state))
    except RuntimeError as error:
        what = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{path} holds weights of another model than its config says: {what}"
        ) from None


def model_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The model's own entries of a Lightning state dict."""
    prefix = "model."
    return {
        name.removeprefix(prefix): value
        for name, value in state["state_dict"].items()
        if name.startswith(prefix)
    }


def read(path: str | Path) -> dict[str, Any]:
    """The checkpoint as plain containers and CPU tensors, verified.

    Raises:
        UserError: If the file is missing, damaged or not a checkpoint of this suite.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; a run keeps its own in <run>/checkpoints")
    _verify(path)
    try:
        state = _content(path)
    except (RuntimeError, EOFError, OSError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
        raise UserError(
            f"{path} is damaged or no checkpoint; use another one of its folder"
        ) from None
    entry = state.get("crystalline") if isinstance(state, dict) else None
    if not isinstance(entry, dict) or "config" not in entry:
        raise UserError(f"{path} is no checkpoint of this suite: it has no 'crystalline' entry")
    if entry["format"] != FORMAT:
        raise UserError(
            f"{path} has format {entry['format']}, this version reads {FORMAT}; "
            f"use the version that wrote it: {entry['versions'].get('crystalline')}"
        )
    return state


def _content(path: Path) -> Any:
    version = container.version_of(path)
    if version is None:
        return torch.load(path, map_location="cpu", weights_only=True)
    if version in (1, 2):
        raise UserError(
            f"{path} has the published layout of version {version}, which holds weights alone: "
            "no tokenizer, no configuration; name the checkpoint that it was made from"
        )
    return model_file.from_file(container.read(path), path)


def write(state: Mapping[str, Any], path: Path) -> None:
    """Save atomically, with the file's SHA-256 beside it as <name>.sha256.

    The old sum is kept in the sum file until the new checkpoint stands, so that a crash between the
    two renames leaves a pair that verifies.
    """
    sums = _sum_file(path)
    old = sums.read_text() if sums.is_file() else ""
    with atomic_path(path) as temporary:
        torch.save(dict(state), temporary)
        new = sha256(temporary) + "\n"
        write_atomically(sums, new + old)
    write_atomically(sums, new)


def sha256(path: Path) -> str:
    """Of the file's content, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(path: Path) -> None:
    sums = _sum_file(path)
    if sums.is_file() and sha256(path) not in sums.read_text().split():
        raise UserError(f"{path} is damaged (its checksum differs); use another one of its folder")


def _sum_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
