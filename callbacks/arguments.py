"""Checks that many callbacks make of their arguments."""

from __future__ import annotations

from crystalline.errors import UserError


def at_least_one(callback: str, **values: int) -> None:
    """Refuse counts below 1.

    Raises:
        UserError: Naming the first such key of the callback.
    """
    for name, value in values.items():
        if value < 1:
            raise UserError(f"callbacks.{callback}.{name}={value}: give 1 or more")
