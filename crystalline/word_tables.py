"""What `crystalline.words` has read, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crystalline.text_table import text_table

_SHOWN = 3
"""Words of a cell."""


def tables(found: dict[str, Any]) -> str:
    """All of it, the one line of scores last."""
    read = f"{found['tokens']:,} tokens of {found['data']}, {found['split']}"
    blocks = [f"{found['model']}, step {found['steps']}: {read}"]
    for view, rows in found["lens"].items():
        own = ", what the head reads" if view == found["readout"] else ""
        blocks.append(f"states, {view}{own}\n{text_table(rows)}")
    blocks.append(f"what parts add\n{text_table([_cells(row) for row in found['parts']])}")
    if found["maps"]:
        blocks.append(f"word pairs\n{text_table([_map(row) for row in found['maps']])}")
    if found["programs"]:
        blocks.append(f"ways taken\n{text_table([_program(row) for row in found['programs']])}")
    if found["horizons"]:
        lines = [
            f"  {name}: {', '.join(f'{value:.1f}' for value in values)}"
            for name, values in found["horizons"].items()
        ]
        blocks.append("\n".join(["horizons of memories, tokens", *lines]))
    if found["tests"]:
        blocks.append(f"changed states\n{text_table(found['tests'])}")
    blocks.append(f"the text\n{text_table([_position(row) for row in found['text']])}")
    blocks.append(f"scores\n{text_table([found['scores']])}")
    return "\n\n".join(blocks) + "\n"


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    return {key: _few(value) if isinstance(value, list) else value for key, value in row.items()}


def _map(row: dict[str, Any]) -> dict[str, Any]:
    pairs = [f"{a}>{b} {value:+.3f}" for a, b, value in row["pairs"]]
    own = [f"{word} {value:+.3f}" for word, value in row["own"]]
    return {**row, "pairs": _few(pairs), "own": _few(own)}


def _program(row: dict[str, Any]) -> dict[str, Any]:
    usage = sorted(row["usage"].items(), key=lambda way: -way[1])
    kept = {key: value for key, value in row.items() if key != "by_class"}
    return {**kept, "usage": ", ".join(f"{way} {share:.2f}" for way, share in usage)}


def _position(row: dict[str, Any]) -> dict[str, Any]:
    states = {
        f"x_{depth}": f"{state['top'][0]} {state['probability'][0]:.2f}"
        for depth, state in enumerate(row["states"])
    }
    return {"token": row["token"], **states}


def _few(cells: Sequence[str]) -> str:
    return "  ".join(cells[:_SHOWN])
