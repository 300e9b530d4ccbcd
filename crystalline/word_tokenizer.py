"""Ids that have names: the words of data that is generated."""

from __future__ import annotations

import json
from collections.abc import Sequence

from crystalline.tokenizer import Tokenizer


class WordTokenizer(Tokenizer):
    """A list of words; the special id after them is start and end.

    Texts are written with one space before each word, and read with any whitespace between them.

    Args:
        words: By id.

    Raises:
        ValueError: If a word occurs twice, is empty or holds whitespace.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._ids = {word: i for i, word in enumerate(self._words)}
        if len(self._ids) < len(self._words) or any(w.split() != [w] for w in self._words):
            raise ValueError("words must differ from each other and hold no whitespace")
        self.vocab_size = len(self._words) + 1
        self.eot_id = len(self._words)

    def encode(self, text: str) -> list[int]:
        """Ids of words with whitespace between them.

        Raises:
            ValueError: If another word occurs.
        """
        said = text.split()
        strange = sorted(set(said) - set(self._ids))
        if strange:
            raise ValueError(f"there is no word {strange[0]!r} among {self.eot_id}")
        return [self._ids[word] for word in said]

    def token_bytes(self, token: int) -> bytes:
        return f" {self._words[token]}".encode() if token != self.eot_id else b""

    def to_json(self) -> str:
        return json.dumps({"kind": "words", "words": self._words}, ensure_ascii=False)
