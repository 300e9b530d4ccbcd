"""Files that callbacks leave in the run folder and hand to the loggers."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from crystalline.files import write_atomically


def save_artifact(trainer: Trainer, name: str, content: str | bytes) -> Path:
    """Write `<run folder>/<name>` whole or not at all, and hand it to loggers that keep files.

    Only rank 0 writes; other ranks get the path.

    Args:
        trainer: Its `default_root_dir` is the run folder.
        name: Path below the run folder, such as "buckets/step_0000100.json".
        content: Text is written as UTF-8.

    Raises:
        OSError: If the disk is full.
    """
    path = Path(trainer.default_root_dir) / name
    if trainer.is_global_zero:
        write_atomically(path, content)
        hand_to_loggers(trainer, path, name)
    return path


def hand_to_loggers(trainer: Trainer, path: Path, name: str) -> None:
    """Give a written file to every logger that keeps files, in the folder part of `name`."""
    folder = Path(name).parent.as_posix()
    for logger in trainer.loggers:
        log_artifact = getattr(logger, "log_artifact", None)
        if log_artifact is not None:
            log_artifact(path, "" if folder == "." else folder)
