"""Tokens of a SentencePiece BPE, from its `.vocab` table: pieces, scores, bytes as fallback."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Integer

from crystalline.tokenizer import Tokenizer

SPACE = "\u2581"
"""How pieces write a space."""
CONTROL = ("<unk>", "<s>", "</s>", "<pad>")
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD = re.compile(f"{SPACE}?[^{SPACE}]+|{SPACE}")


class SentencePieceTokenizer(Tokenizer):
    """Pieces of words; a document opens with `<s>`, and its first word as if after a space.

    Texts come back but for that space and for characters that were normalised before.

    Args:
        pieces: By id, spaces as U+2581, bytes as `<0x41>`.
        scores: By id; of two pieces that could be merged, the one with the higher score is.

    Raises:
        ValueError: If `<s>` is missing.
    """

    starts_with_space: Bool[np.ndarray, " vocab"]
    is_boundary: Bool[np.ndarray, " vocab"]
    """Control pieces: after them a leading space is no part of the text."""
    lengths: Int[np.ndarray, " vocab"]
    """UTF-8 bytes of each piece without its leading space."""

    def __init__(self, pieces: Sequence[str], scores: Sequence[float]) -> None:
        if "<s>" not in pieces:
            raise ValueError("the table has no piece <s>")
        self.pieces, self.scores = list(pieces), list(scores)
        self.vocab_size = len(self.pieces)
        self.eot_id = self.pieces.index("<s>")
        self._ids = {piece: i for i, piece in enumerate(self.pieces)}
        self._bytes = [_bytes_of(piece) for piece in self.pieces]
        self._words: dict[str, list[int]] = {}
        self.starts_with_space = np.array([piece.startswith(SPACE) for piece in self.pieces])
        self.is_boundary = np.array([piece in CONTROL for piece in self.pieces])
        self.lengths = np.array([len(b) for b in self._bytes]) - self.starts_with_space

    def encode(self, text: str) -> list[int]:
        marked = SPACE + text.replace(" ", SPACE) if text else ""
        ids: list[int] = []
        for word in _WORD.findall(marked):
            if word not in self._words:
                self._words[word] = self._encode_word(word)
            ids += self._words[word]
        return ids

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def to_json(self) -> str:
        document = {"kind": "sentencepiece", "pieces": self.pieces, "scores": self.scores}
        return json.dumps(document, ensure_ascii=False)

    def scored_bytes(
        self, before: Integer[np.ndarray, "*shape"], tokens: Integer[np.ndarray, "*shape"]
    ) -> Integer[np.ndarray, "*shape"]:
        """Bytes of text that each of `tokens` stands for after the token `before` it."""
        space = self.starts_with_space[tokens] & ~self.is_boundary[before]
        return self.lengths[tokens] + space

    def _encode_word(self, word: str) -> list[int]:
        """Merge the best neighbours until none is a piece; other characters become bytes."""
        parts = list(word)
        while True:
            merged = [self._ids.get(a + b) for a, b in pairwise(parts)]
            known = [(-self.scores[i], place) for place, i in enumerate(merged) if i is not None]
            if not known:
                break
            place = min(known)[1]
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids: list[int] = []
        for part in parts:
            spelled = [f"<0x{byte:02X}>" for byte in part.encode()]
            ids += [self._ids[p] for p in ([part] if part in self._ids else spelled)]
        return ids


def read_vocab(path: Path) -> SentencePieceTokenizer:
    """The tokenizer of a `.vocab` file: a piece, a tab and a score on each line.

    Raises:
        ValueError: If the file is no such table.
    """
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").split("\n") if line]
    if not all(len(row) == 2 for row in rows):
        raise ValueError(f"{path} is no SentencePiece .vocab table")
    return SentencePieceTokenizer([row[0] for row in rows], [float(row[1]) for row in rows])


def _bytes_of(piece: str) -> bytes:
    """Text of a piece, its leading space included; nothing for control pieces."""
    byte = _BYTE.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)])
    return b"" if piece in CONTROL else piece.replace(SPACE, " ").encode()
