"""What a published model does and what it should do: one switch a question.

A model has a mode, which sets every switch, and each switch can be set by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

MODES = ("faithful", "repaired")


@dataclass(frozen=True)
class Switch:
    """A question, what each mode answers, and what else could be answered."""

    faithful: str
    repaired: str
    choices: tuple[str, ...]


def resolve(switches: Mapping[str, Switch], mode: str, given: Mapping[str, str | None]) -> Any:
    """Every switch that is named, by attribute: what is given, or what the mode says.

    Raises:
        ValueError: If the mode or a value is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"model.mode must be faithful or repaired, got {mode!r}")
    found = {}
    for name, value in given.items():
        switch = switches[name]
        found[name] = getattr(switch, mode) if value is None else value
        if found[name] not in switch.choices:
            raise ValueError(f"model.{name} must be {' or '.join(switch.choices)}, got {value!r}")
    return SimpleNamespace(**found)
