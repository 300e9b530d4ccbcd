"""Which tokens a text or corpus uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crystalline.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalline.checkpoint import Loaded


def occurring(prune: str, loaded: Loaded, config: DictConfig) -> set[int]:
    """Ids that occur.

    Args:
        prune: Path of a text in UTF-8; "train" or "all": splits of the corpus that the command
            names, or the checkpoint's own.
        loaded: Whose tokens are meant.
        config: Of the command.

    Raises:
        UserError: If there is no such text or corpus, or it is not made of tokens.
    """
    if prune not in ("train", "all"):
        return _of_text(Path(prune), loaded)
    import numpy as np

    from crystalline.evaluation import data_of
    from datamodules.streams import StreamDataModule

    data = data_of(loaded, config)
    if not isinstance(data, StreamDataModule):
        raise UserError(f"prune={prune}: this corpus is generated; name a text file")
    names = ("train",) if prune == "train" else tuple(data.streams)
    return {int(id_) for name in names for id_ in np.unique(data.streams[name].ids)}


def _of_text(path: Path, loaded: Loaded) -> set[int]:
    if not path.is_file():
        raise UserError(f"prune={path}: there is no such file; or take prune=train or prune=all")
    try:
        (ids,) = loaded.tokenizer.encode_bytes([path.read_bytes()])
    except ValueError as error:  # bytes that are not UTF-8 are one too
        raise UserError(f"prune={path}: cannot be encoded: {error}") from None
    return set(ids)
