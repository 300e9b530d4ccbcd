"""What a run measured at chosen rounds, as lines of a results page: `metrics.csv` by the round."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystalline.errors import UserError

_ABOUT = (
    "command", "overrides", "choices", "device", "devices", "precision", "seed", "versions",
    "data_fingerprint",
)  # fmt: skip
TRAINING = "study/train/loss"
"""Mean training loss over the rounds since the validation before."""


def moments(folder: Path, summary: dict[str, Any], rounds: Sequence[int]) -> list[dict[str, Any]]:
    """A summary for each of some rounds at which the run was validated.

    Args:
        folder: Of the run.
        summary: Of the whole run: what does not change with the rounds is taken from it.
        rounds: Rounds done.

    Raises:
        UserError: If there is no validation after that many rounds.
    """
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    validated = [row for row in rows if "val/loss" in row]
    steps = [int(row["step"]) for row in validated]
    found = []
    for wanted in rounds:
        if wanted not in steps:
            raise UserError(f"at={wanted}: {folder} was validated after {steps} rounds")
        place = steps.index(wanted)
        since = steps[place - 1] if place else 0
        losses = [
            row["loss/prediction"]
            for row in rows
            if since < row["step"] <= wanted and "loss/prediction" in row
        ]
        kept = {name: summary[name] for name in _ABOUT if name in summary}
        measured = validated[place]
        kept |= {k: v for k, v in measured.items() if k.startswith(("val/", "phase_gap"))}
        kept |= {f"study/{k}": v for k, v in measured.items() if k.startswith("field/")}
        kept |= {"steps": wanted, "tokens_seen": measured.get("tokens_seen")}
        kept["study/val/loss"] = measured["val/loss"]
        if losses:
            kept[TRAINING] = sum(losses) / len(losses)
        found.append(kept)
    return found
