"""The file of an export: a checkpoint's own entry and weights at a named precision, in zlib."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from crystalline.errors import UserError
from crystalline.export import int8
from crystalline.files import write_atomically

MAGIC = b"crystalline export 1\n"
PRECISIONS: dict[str, ModuleType] = {"int8_rows": int8}
"""By name: modules with `quantize(state, names)` and `dequantize(state)`."""


def is_export(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def write(
    path: Path, entry: Mapping[str, Any], step: int, model: torch.nn.Module, precision: str
) -> None:
    """Replace `path` by the model at that precision; buffers that can be derived are not in it.

    Args:
        path: Where to.
        entry: The checkpoint's "crystalline" entry.
        step: Rounds the model was trained for.
        model: On any device.
        precision: One of `PRECISIONS`.
    """
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    content = {
        "crystalline": dict(entry),
        "global_step": step,
        "precision": precision,
        "weights": PRECISIONS[precision].quantize(state, names),
    }
    plain = io.BytesIO()
    torch.save(content, plain)
    write_atomically(path, MAGIC + zlib.compress(plain.getvalue(), level=9))


def read(path: Path) -> dict[str, Any]:
    """As a checkpoint without optimizers: "crystalline", "global_step", "state_dict".

    Raises:
        UserError: If the file is damaged, or of a precision that is not known here.
    """
    try:
        plain = zlib.decompress(path.read_bytes()[len(MAGIC) :])
        content = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
    except (zlib.error, RuntimeError, EOFError, pickle.UnpicklingError):
        raise UserError(f"{path} is damaged; export it anew") from None
    precision = content["precision"]
    if precision not in PRECISIONS:
        raise UserError(f"{path} has precision {precision}; known: {', '.join(PRECISIONS)}")
    weights = PRECISIONS[precision].dequantize(content["weights"])
    return {
        "crystalline": content["crystalline"],
        "global_step": content["global_step"],
        "state_dict": {f"model.{name}": value for name, value in weights.items()},
    }
