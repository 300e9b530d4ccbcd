"""Pictures of what `crystalline.words` has read."""

from __future__ import annotations

from typing import Any

from crystalline.tradeoff import curves_png, heat_png

_POSITIONS = 40
"""Of the text, that a picture has room for."""


def pictures(found: dict[str, Any]) -> dict[str, bytes]:
    """PNGs by name: `text`, the likeliest word of each state; `depth`, how far from the output.

    Args:
        found: The tables, with names for words.
    """
    text = found["text"][:_POSITIONS]
    depths = [f"x_{depth}" for depth in range(len(text[0]["states"]))]
    columns = ("state", "text", "probability of the likeliest word")
    curves = {
        name: [[(float(row["depth"]), row["kl"]) for row in rows]]
        for name, rows in found["lens"].items()
    }
    return {
        "text": heat_png(
            [[state["probability"][0] for state in row["states"]] for row in text],
            [_plain(row["token"]) for row in text],
            depths,
            columns,
            [[_plain(state["top"][0]) for state in row["states"]] for row in text],
        ),
        "depth": curves_png(curves, "passes", "KL(lens || output), nats"),
    }


def _plain(name: str) -> str:
    """In letters that every font has, and that no formula is made of."""
    return (
        name.encode("ascii", "backslashreplace").decode().replace("$", "\N{FULLWIDTH DOLLAR SIGN}")
    )
