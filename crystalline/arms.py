"""The jobs of a sweep, gathered into arms: those of one arm differ in their seeds."""

from __future__ import annotations

from collections.abc import Sequence

from crystalline.results import Row


def arms(rows: Sequence[Row], by: Sequence[str]) -> dict[str, list[Row]]:
    """Finished jobs by what their command lines set these keys to.

    A name has the last part of each key: "lambda_compress=0 shuffle_tokens=false".
    """
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.summary is not None:
            parts = (f"{key.rpartition('.')[2]}={_setting(row, key)}" for key in by)
            found.setdefault(" ".join(parts), []).append(row)
    return found


def has_codes(row: Row) -> bool:
    """Whether the job's model has codebooks: without them it is the baseline of the others."""
    return row.value("parameters") != row.value("parameters_without_codebooks")


def _setting(row: Row, key: str) -> str:
    """As it is typed: Hydra's sweeps write truth values as Python does."""
    value = row.overrides.get(key, "")
    return value.lower() if value in ("True", "False") else value
