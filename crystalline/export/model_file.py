"""A model, its tokenizer and where it comes from, as one .crystal file, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalline.contract import LanguageModel
from crystalline.errors import UserError
from crystalline.export.container import CrystalFile, StoredTensor, Value
from crystalline.export.precisions import EXACT, PRECISIONS, weights_of
from crystalline.export.schemes import Clip
from crystalline.export.tokenizer_tables import tokenizer_of, tokenizer_tables
from crystalline.tokenizer import Tokenizer

_INTEGERS = {
    torch.bool: "u8", torch.uint8: "u8", torch.int8: "i32", torch.int16: "i32",
    torch.int32: "i32", torch.int64: "i64",
}  # fmt: skip
_TOKENIZER = "tokenizer."


@dataclass(frozen=True)
class Rounding:
    """What happens to parameters."""

    precision: str = "float32"
    """A name of `PRECISIONS`."""
    only: str | None = None
    """Regular expression: parameters whose names it is not found in stay fp32."""
    clip: Clip | None = None
    """None: as the precision says."""

    def chooses(self, *names: str) -> bool:
        """Whether a parameter of these names may be rounded."""
        return self.only is None or any(re.search(self.only, name) for name in names)


def without_weights(
    model: LanguageModel,
    tokenizer: Tokenizer,
    entry: Mapping[str, Any],
    step: int,
    source_sha256: str,
) -> CrystalFile:
    """A file in which everything but the weights is said.

    Args:
        model: The one that will be in it.
        tokenizer: Whose tables go into the file, where the C runtime can use them.
        entry: The checkpoint's "crystalline" entry, such that it builds `model`.
        step: Rounds the model was trained for.
        source_sha256: Of the file that the model comes from.
    """
    facts, tensors = tokenizer_tables(tokenizer)
    told = tokenizer_of(CrystalFile(facts, tensors))
    if told is not None and told.to_json() == tokenizer.to_json():
        entry = {key: value for key, value in entry.items() if key != "tokenizer"}
    metadata: dict[str, Value] = {
        "checkpoint.entry": json.dumps(entry, ensure_ascii=False),
        "checkpoint.step": step,
        "source.sha256": source_sha256,
    }
    for key, value in (model.runtime_metadata() or {}).items():
        metadata[f"runtime.{key}"] = value
    return CrystalFile(metadata | facts, tensors)


def with_weights(content: CrystalFile, model: LanguageModel, rounding: Rounding) -> CrystalFile:
    """The whole file. Parameters are rounded, buffers stored as they are; tied tensors once.

    Raises:
        UserError: If a weight cannot be stored, or `rounding.only` chooses none.
    """
    precision, weights = PRECISIONS[rounding.precision], weights_of(model)
    clip = rounding.clip or precision.clip or "none"
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = {name: group for group in names.values() for name in group}
    metadata: dict[str, Value] = {"export.precision": rounding.precision}
    found: dict[str, StoredTensor] = {}
    chosen = 0
    for name, tensor in model.state_dict().items():
        owner, *others = tied.get(name, [name])
        if owner != name:
            metadata[f"alias.{name}"] = owner
            continue
        array, scheme = _plain(tensor)
        if name in weights and scheme == EXACT and rounding.chooses(owner, *others):
            scheme, chosen = precision.scheme(weights[name]), chosen + 1
        try:
            found[name] = StoredTensor.of(array, scheme, clip)
        except ValueError as reason:
            raise UserError(f"{name} {reason}; it cannot be exported as {scheme}") from None
    if rounding.only is not None and not chosen:
        raise UserError(f"only={rounding.only}: it is found in no parameter's name")
    return CrystalFile({**content.metadata, **metadata}, {**content.tensors, **found})


def from_file(content: CrystalFile, path: Any) -> dict[str, Any]:
    """As a checkpoint without optimizers: "crystalline", "global_step", "state_dict".

    Raises:
        UserError: If the file holds no checkpoint.
    """
    try:
        entry = dict(json.loads(str(content.metadata["checkpoint.entry"])))
        step = int(content.metadata["checkpoint.step"])
        if "tokenizer" not in entry:
            entry["tokenizer"] = _told(content).to_json()
    except Exception as error:  # the library of tokenizers raises no other kind
        raise UserError(
            f"{path} does not hold a whole checkpoint ({error}); export it anew"
        ) from error
    return {
        "crystalline": entry,
        "global_step": step,
        "state_dict": {f"model.{name}": value for name, value in state_dict(content).items()},
    }


def _told(content: CrystalFile) -> Tokenizer:
    found = tokenizer_of(content)
    if found is None:
        raise ValueError("no tokenizer")
    return found


def state_dict(content: CrystalFile) -> dict[str, Tensor]:
    """The model's tensors by name; tied names share one."""
    found = {
        name: torch.from_numpy(stored.array())
        for name, stored in content.tensors.items()
        if not name.startswith(_TOKENIZER)
    }
    for key, value in content.metadata.items():
        if key.startswith("alias."):
            found[key.removeprefix("alias.")] = found[str(value)]
    return found


def _plain(tensor: Tensor) -> tuple[np.ndarray, str]:
    """The values, and the scheme that keeps them as they are."""
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        return tensor.float().numpy(), EXACT
    scheme = _INTEGERS[tensor.dtype]
    return tensor.numpy(), scheme
