"""Censuses of fields that have grown by known rules."""

from __future__ import annotations

import torch
from torch import Tensor

from crystalline.interpret.growth_frames import GrowthRecord


def census(rows: list[int], parents: list[int], d: int = 3, **columns: list) -> dict[str, Tensor]:
    """As `LanguageModel.census` tells one field; positions are drawn by the neurons' rows."""
    birth = [0 if parent < 0 else 5 for parent in parents]
    found = {
        "row": torch.tensor(rows),
        "parent": torch.tensor(parents),
        "birth": torch.tensor(columns.get("birth", birth)),
        "frozen": torch.tensor(columns.get("frozen", [False] * len(rows))),
        "positions": torch.stack(
            [torch.randn(d, generator=torch.Generator().manual_seed(r)) for r in rows]
        ),
    }
    for name, value in (("activity", 0.1), ("scale", 0.75), ("rate", 1.0)):
        found[name] = torch.tensor(columns.get(name, [value] * len(rows)))
    return found


def grown(sites: int = 1, text: str = "") -> GrowthRecord:
    """Two founders have two children, then the second child has one and freezes."""
    record = GrowthRecord(epochs=20)
    names = [f"blocks.{index}.field" for index in range(sites)]
    early = census([0, 2], [-1, -1], activity=[0.0, 0.0])
    middle = census([0, 2, 3, 5], [-1, -1, 0, 2], activity=[1.0, 0.1, 0.01, 1e-6])
    late = census(
        [0, 2, 3, 5, 7],
        [-1, -1, 0, 2, 5],
        frozen=[False, False, False, True, False],
        activity=[0.5, 0.2, 0.5, 0.1, 0.3],
    )
    for epoch, snapshot in ((0, early), (10, middle), (20, late)):
        record.add(epoch, {name: snapshot for name in names}, text)
    for epoch in (5.5, 12.0):
        record.note_loss("val/loss", epoch, 8.0 - epoch / 10)
    return record
