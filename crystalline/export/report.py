"""The table of an export: size and scores of every file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

import crystalline
from crystalline.export.comparison import compare
from crystalline.files import finite, write_atomically
from crystalline.metrics.token_loss import bits_per_byte
from crystalline.summary import command_line, device_name, versions
from crystalline.text_table import text_table

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from crystalline.checkpoint import Loaded

EXACT = "float32"


def measured(
    exact: Loaded, full_bytes: int, files: Mapping[str, Path], split: str | None, config: DictConfig
) -> dict[str, Any]:
    """Under "rows" one for fp32 and one for each file, and beside it what was scored.

    A row has bytes, their share of fp32 and, where there is a split, its scores.

    Args:
        exact: The model in fp32; moved to a GPU where there is one.
        full_bytes: Of its file.
        files: By precision.
        split: That is scored; None: none.
        config: Of the command.

    Raises:
        UserError: If the corpus cannot be found, or is not made of the model's tokens.
    """
    sizes = {EXACT: full_bytes} | {name: path.stat().st_size for name, path in files.items()}
    rows = {
        name: {"precision": name, "bytes": size, "share": size / full_bytes}
        for name, size in sizes.items()
    }
    if split is None:
        return {"rows": list(rows.values())}
    import torch

    from crystalline.evaluation import data_of, name_of

    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = data_of(exact, config)
    models = {name: crystalline.load(path).model for name, path in files.items()}
    models = {EXACT: exact.model} | models
    for model in (exact.model, *models.values()):  # a file in fp32 stands in for the former
        model.to(device)
    figures = compare(exact.model, models, _batches(data, split))
    text_bytes = data.split_bytes
    for name, scores in figures.items():
        targets = scores.pop("targets")
        per_target = text_bytes[split] / targets if text_bytes else None
        loss = scores["loss"]
        delta = {"delta": loss - figures[EXACT]["loss"]}
        rows[name] |= {"loss": loss, "bpb": bits_per_byte(loss, per_target)} | delta | scores
    scored = {"split": split, "data": name_of(exact, config), "data_fingerprint": data.fingerprint}
    return {**scored, "rows": list(rows.values())}


def describe(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table."""
    digits = {"share": 3, "loss": 5, "bpb": 5, "delta": 5, "agreement": 4, "kl": 6}

    def shown(name: str, value: Any) -> Any:
        if value is None or name not in digits:
            return "-" if value is None else value
        return f"{round(value, digits[name]) + 0.0:.{digits[name]}f}"  # + 0.0: no -0

    return text_table([{name: shown(name, v) for name, v in row.items()} for row in rows])


def save(stem: Path, found: Mapping[str, Any]) -> None:
    """Write <stem>.txt, the table, and <stem>.json, all that is known."""
    import torch

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    origin = {"command": command_line(), "device": device_name(place), "versions": versions()}
    content = finite({**found, **origin})
    write_atomically(stem.with_name(stem.name + ".json"), json.dumps(content, indent=2) + "\n")
    write_atomically(stem.with_name(stem.name + ".txt"), describe(found["rows"]) + "\n")


def _batches(data: Any, split: str) -> Iterator[tuple[Tensor, Tensor]]:
    loaders = {
        "val": data.val_dataloader,
        "test": data.test_dataloader,
        "train": data.train_eval_dataloader,
    }
    for batch in loaders[split]():
        yield batch.tokens, batch.targets
