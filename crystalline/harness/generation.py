"""How a task wants text to be continued, and where the text ends."""

# pyright: reportMissingImports=false
# lm_eval is an extra that dev does not have: it slows every start.
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from crystalline.errors import UserError


@dataclass(frozen=True)
class Generation:
    """A task's `generation_kwargs`; equal ones can share a batch."""

    until: tuple[bytes, ...]
    """The text ends before the first of them."""
    max_new_tokens: int
    temperature: float
    """0: the likeliest token."""
    top_k: int | None
    top_p: float

    @classmethod
    def of(cls, wanted: Mapping[str, Any]) -> Generation:
        """By the harness's rules: greedy, 256 tokens, unless the task says otherwise.

        Raises:
            UserError: If it asks for more than sampling by temperature, top_k and top_p.
        """
        rest: dict[str, Any] = dict(normalize_gen_kwargs(dict(wanted)))
        until = [str(text).encode() for text in rest.pop("until") if text]
        sampled = rest.pop("do_sample")
        found = cls(
            tuple(until),
            rest.pop("max_gen_toks"),
            float(rest.pop("temperature", 1.0 if sampled else 0.0)),
            rest.pop("top_k", None) or None,  # 0 is all tokens there
            rest.pop("top_p", 1.0),
        )
        if rest.pop("num_beams", 1) != 1 or rest:
            raise UserError(
                f"a task has generation_kwargs {dict(wanted)}; for checkpoints only until, "
                "max_gen_toks, do_sample, temperature, top_k and top_p are known"
            )
        return found


class Ending:
    """One text while it is written: its bytes up to the first of the strings that end it."""

    def __init__(self, until: tuple[bytes, ...]) -> None:
        self._until = until
        self._written = b""
        self.done = False

    def push(self, piece: bytes) -> None:
        """Add the bytes of the next token; none are added to a text that has ended."""
        if self.done:
            return
        self._written += piece
        cuts = [at for text in self._until if (at := self._written.find(text)) >= 0]
        if cuts:
            self._written, self.done = self._written[: min(cuts)], True

    @property
    def text(self) -> str:
        """So far; bytes that are not UTF-8 become U+FFFD."""
        return self._written.decode(errors="replace")
