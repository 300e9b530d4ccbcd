"""Tokens to text while they come, without ever cutting a character in two."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from crystalline.tokenizer import Tokenizer


class TextStream:
    """Collects the bytes of tokens and gives out whole characters.

    What can never become UTF-8 is replaced by U+FFFD, as `Tokenizer.decode` does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Characters that are complete with this token; often one piece, sometimes nothing."""
        return self._decoder.decode(self._tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left when no more tokens come."""
        return self._decoder.decode(b"", final=True)


def stream_text(tokens: Iterable[int], tokenizer: Tokenizer) -> Iterator[str]:
    """Pieces of text as soon as they are certain; empty ones are left out."""
    stream = TextStream(tokenizer)
    for token in tokens:
        piece = stream.push(token)
        if piece:
            yield piece
    rest = stream.finish()
    if rest:
        yield rest
