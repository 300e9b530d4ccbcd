"""Words of a vocabulary as they are shown."""

from __future__ import annotations

import json
from typing import Any

from crystalline.tokenizer import EOT, Tokenizer

_WORDS = ("up", "down", "top", "token", "next")
"""Entries that hold ids, one or a list."""
_PAIRS = ("pairs", "own")
"""Entries that hold lists whose rows are ids and a value."""


class WordNames:
    """Names of token ids: their text in quotes, which show spaces.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._names = [
            json.dumps(text.decode(errors="replace"), ensure_ascii=False) if text else EOT
            for text in map(tokenizer.token_bytes, range(tokenizer.vocab_size))
        ]

    def __getitem__(self, word: int) -> str:
        return self._names[word] if word >= 0 else "-"

    def in_rows(self, value: Any) -> Any:
        """`value` with names for ids in the entries of its rows that hold some."""
        if isinstance(value, list):
            return [self.in_rows(inner) for inner in value]
        if not isinstance(value, dict):
            return value
        return {key: self._entry(key, inner) for key, inner in value.items()}

    def _entry(self, key: str, value: Any) -> Any:
        if key in _PAIRS:
            return [[*(self[word] for word in row[:-1]), row[-1]] for row in value]
        if key not in _WORDS:
            return self.in_rows(value)
        return self[value] if isinstance(value, int) else [self[word] for word in value]
