"""The tokenizer's part of a file, and merging written down plainly."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from crystalline.tokenizer import EOT, BPETokenizer, byte_characters
from tests.crystalline.export.runtime.schemes import Stored, plain

_BYTE_OF = {character: byte for byte, character in enumerate(byte_characters())}


def trained(texts: list[str], vocab_size: int) -> BPETokenizer:
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    fast.decoder = decoders.ByteLevel()  # type: ignore
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOT], initial_alphabet=alphabet, show_progress=False
    )
    fast.train_from_iterator(texts, trainer)
    return BPETokenizer(fast)


def merges_of(tokenizer: BPETokenizer) -> list[tuple[bytes, bytes]]:
    document = json.loads(tokenizer.to_json())["tokenizer"]["model"]
    pairs = [m.split(" ") if isinstance(m, str) else m for m in document["merges"]]
    return [(_bytes(left), _bytes(right)) for left, right in pairs]


def _bytes(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)


def closed(known: Collection[bytes], merges: list[tuple[bytes, bytes]]) -> list[bytes]:
    """The tokens and all that arise while they are merged, single bytes included."""
    parts = {left + right: (left, right) for left, right in merges}
    found = {bytes([byte]) for byte in range(256)}
    open_ones = list(known)
    while open_ones:
        token = open_ones.pop()
        if token not in found:
            found.add(token)
            open_ones.extend(parts.get(token, ()))
    return sorted(found)


def tables(
    table: list[bytes], merges: list[tuple[bytes, bytes]], ids: Mapping[bytes, int], eot_id: int
) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Metadata and tensors; the table has the special token last."""
    rows = {token: row for row, token in enumerate(table)}
    triples = [
        (rows[left], rows[right], rows[left + right])
        for left, right in merges
        if left in rows and right in rows and left + right in rows
    ]
    kind = np.uint16 if len(table) < 65536 else np.uint32
    metadata = {"tokenizer.kind": "bpe", "tokenizer.eot_id": eot_id}
    lengths = [len(token) for token in [*table, b""]]
    tensors = {
        "tokenizer.offsets": plain(np.cumsum([0, *lengths], dtype=np.uint32)),
        "tokenizer.bytes": plain(np.frombuffer(b"".join(table), np.uint8)),
        "tokenizer.ids": plain(np.array([*(ids.get(t, -1) for t in table), eot_id], np.int32)),
        "tokenizer.merges": plain(np.array(triples, kind).reshape(-1, 3)),
    }
    return metadata, tensors


def merged(
    piece: bytes,
    merges: list[tuple[bytes, bytes]],
    table: Collection[bytes],
    ids: Mapping[bytes, int],
) -> list[int]:
    """Ids of a piece: the earliest merge again and again, then back to parts that have ids."""
    ranks = {pair: rank for rank, pair in enumerate(merges) if pair[0] + pair[1] in table}
    parts = {left + right: (left, right) for left, right in ranks}
    tokens = [bytes([byte]) for byte in piece]
    while True:
        pairs = [(ranks.get(pair, len(merges)), i) for i, pair in enumerate(pairwise(tokens))]
        rank, at = min(pairs, default=(len(merges), 0))
        if rank == len(merges):
            break
        tokens[at : at + 2] = [tokens[at] + tokens[at + 1]]
    while any(token not in ids for token in tokens):
        tokens = [p for token in tokens for p in ((token,) if token in ids else parts[token])]
    return [ids[token] for token in tokens]
