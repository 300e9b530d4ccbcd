"""A byte-pair encoding of which only some tokens are left, such as those that a corpus uses."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from crystalline.tokenizer import (
    BPETokenizer,
    Tokenizer,
    byte_characters,
    tokenizer_from_json,
)


class PrunedTokenizer(Tokenizer):
    """The tokens that are kept, in their old order, with new ids without gaps.

    Every text still has ids: bytes are always kept, and a token without an id falls back to the two
    that it was merged from. A text all of whose tokens are kept is cut as before, since everything
    that arises while kept tokens are merged is still merged; other texts may be cut in another way.

    Args:
        inner: Kept tokens at the ids [0, vocab_size), then those that only arise on the way.
        vocab_size: Number of kept tokens V.
        original: The id that each kept token had before.

    Raises:
        ValueError: If the special token or a byte is not kept.
    """

    def __init__(self, inner: BPETokenizer, vocab_size: int, original: Sequence[int]) -> None:
        if inner.eot_id >= vocab_size:
            raise ValueError("the token between documents must be kept")
        self.inner = inner
        self.vocab_size = vocab_size
        self.eot_id = inner.eot_id
        self.original = list(original)
        pieces = _fallbacks(inner, vocab_size)
        self._lengths = np.array([len(piece) for piece in pieces])
        self._starts = self._lengths.cumsum() - self._lengths
        self._ids = np.array([id_ for piece in pieces for id_ in piece])

    @classmethod
    def of(cls, base: Tokenizer, occurring: Collection[int]) -> PrunedTokenizer:
        """What `base` is without the tokens that `kept` leaves out.

        Raises:
            ValueError: If it is no byte-pair encoding, or has no token for some byte.
        """
        rows = kept(base, occurring)
        if isinstance(base, PrunedTokenizer):
            again = cls.of(base.inner, rows)
            return cls(again.inner, len(rows), [base.original[row] for row in rows])
        assert isinstance(base, BPETokenizer)
        document = json.loads(base.to_json())
        document["tokenizer"] = _reduced(document["tokenizer"], rows)
        inner = tokenizer_from_json(json.dumps(document))
        assert isinstance(inner, BPETokenizer)
        return cls(inner, len(rows), rows)

    def encode(self, text: str) -> list[int]:
        return self._known(self.inner.encode(text))

    def encode_bytes(self, pieces: Sequence[bytes]) -> list[list[int]]:
        return [self._known(ids) for ids in self.inner.encode_bytes(pieces)]

    def token_bytes(self, token: int) -> bytes:
        return self.inner.token_bytes(token)

    def to_json(self) -> str:
        document = {
            "kind": "pruned",
            "vocab_size": self.vocab_size,
            "original": self.original,
            "inner": json.loads(self.inner.to_json()),
        }
        return json.dumps(document, ensure_ascii=False)

    def _known(self, inner: list[int]) -> list[int]:
        """Ids of kept tokens instead of those of `inner`."""
        ids = np.array(inner, np.int64)
        lengths = self._lengths[ids]
        ends = lengths.cumsum()
        places = np.repeat(self._starts[ids] - ends + lengths, lengths) + np.arange(lengths.sum())
        return self._ids[places].tolist()


def kept(tokenizer: Tokenizer, occurring: Collection[int]) -> list[int]:
    """Ids that pruning leaves, ascending: those that occur, bytes, and the special token.

    Raises:
        ValueError: If it is no byte-pair encoding, or has no token for some byte.
    """
    inner = tokenizer.inner if isinstance(tokenizer, PrunedTokenizer) else tokenizer
    if not isinstance(inner, BPETokenizer):
        raise ValueError("only a byte-pair encoding can be pruned")
    vocabulary = document_of(inner)["model"]["vocab"]
    missing = [character for character in byte_characters() if character not in vocabulary]
    if missing:
        raise ValueError(f"the vocabulary has no token for {len(missing)} of the 256 bytes")
    return sorted({*occurring, inner.eot_id, *(vocabulary[c] for c in byte_characters())})


def document_of(tokenizer: BPETokenizer) -> dict[str, Any]:
    """What the library's own file would say; `document["model"]["vocab"]` has the ids."""
    return json.loads(tokenizer.to_json())["tokenizer"]


def merges_of(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs of tokens in order of rank, as the vocabulary writes them."""
    merges = document["model"]["merges"]
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in pairs]


def _reduced(document: dict[str, Any], original: Sequence[int]) -> dict[str, Any]:
    """The document of a tokenizer that knows the tokens `original` and what arises on their way.

    Kept tokens get the first ids, in their order; the others follow in theirs.
    """
    added = {token["content"]: token["id"] for token in document["added_tokens"]}
    vocabulary: dict[str, int] = document["model"]["vocab"] | added
    name_of = {id_: name for name, id_ in vocabulary.items()}
    pairs = merges_of(document)
    parts: dict[str, list[tuple[str, str]]] = {}
    for left, right in pairs:
        parts.setdefault(left + right, []).append((left, right))
    kept = [name_of[id_] for id_ in original]
    found, waiting = set(kept), list(kept)
    while waiting:
        for part in {part for pair in parts.get(waiting.pop(), ()) for part in pair} - found:
            found.add(part)
            waiting.append(part)
    order = kept + sorted(found - set(kept), key=vocabulary.__getitem__)
    ids = {name: new for new, name in enumerate(order)}
    left_over = [token for token in document["added_tokens"] if token["content"] in ids]
    tokens = [token | {"id": ids[token["content"]]} for token in left_over]
    merges = [[left, right] for left, right in pairs if left + right in ids]
    model = document["model"] | {"vocab": ids, "merges": merges, "unk_token": None}
    return document | {"model": model, "added_tokens": tokens, "post_processor": None}


def _fallbacks(inner: BPETokenizer, vocab_size: int) -> list[list[int]]:
    """Kept tokens that each token of `inner` stands for."""
    document = document_of(inner)
    vocabulary = document["model"]["vocab"]
    parts: dict[int, tuple[int, int]] = {}
    for left, right in merges_of(document):
        parts.setdefault(vocabulary[left + right], (vocabulary[left], vocabulary[right]))
    bytes_: dict[bytes, int] = {
        inner.token_bytes(vocabulary[character]): vocabulary[character]
        for character in byte_characters()
    }
    found: dict[int, list[int]] = {id_: [id_] for id_ in range(vocab_size)}
    for id_ in range(vocab_size, inner.vocab_size):
        pieces: list[int] = []
        waiting = [id_]
        while waiting:
            piece = waiting.pop()
            if piece < vocab_size:
                pieces.append(piece)
            elif piece in parts:
                waiting += reversed(parts[piece])
            else:  # no merge makes it: a tokenizer may know whole words besides
                pieces += [bytes_[bytes([b])] for b in inner.token_bytes(piece)]
        found[id_] = pieces
    return [found[id_] for id_ in range(inner.vocab_size)]
