"""What a .crystal file holds of a tokenizer: enough for a runtime that has no library for them."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np

from crystalline.export.container import CrystalFile, StoredTensor, Value
from crystalline.pruned_tokenizer import PrunedTokenizer, document_of, merges_of
from crystalline.tokenizer import (
    EOT,
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    byte_characters,
    tokenizer_from_json,
)

Tables = tuple[dict[str, Value], dict[str, StoredTensor]]
"""Metadata and tensors."""


def tokenizer_tables(tokenizer: Tokenizer) -> Tables:
    """The tables of docs/crystal_format.md; nothing where the C runtime could not tokenise."""
    if isinstance(tokenizer, PrunedTokenizer):
        facts, tensors = _merging(tokenizer.inner, tokenizer.vocab_size)
        if not facts:
            return {}, {}
        original = np.array(tokenizer.original, np.uint32)
        return facts, tensors | {"tokenizer.original": StoredTensor.of(original, "u32")}
    if isinstance(tokenizer, BPETokenizer):
        return _merging(tokenizer, tokenizer.vocab_size)
    if isinstance(tokenizer, ByteTokenizer):
        tokens = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)]
        facts: dict[str, Value] = {"tokenizer.kind": "bytes", "tokenizer.eot_id": tokenizer.eot_id}
        return facts, _table(tokens, list(range(len(tokens))))
    return {}, {}


def tokenizer_of(content: CrystalFile) -> Tokenizer | None:
    """The tokenizer that the tables of a file describe; None where there are none."""
    if "tokenizer.kind" not in content.metadata:
        return None
    if content.metadata["tokenizer.kind"] == "bytes":
        return ByteTokenizer()
    tables = {
        name: content.tensors[f"tokenizer.{name}"].array()
        for name in ("offsets", "bytes", "ids", "merges")
    }
    text, character = tables["bytes"].tobytes(), byte_characters()
    names = [
        "".join(character[byte] for byte in text[start:end])
        for start, end in pairwise(tables["offsets"].tolist())
    ]
    eot_row = tables["ids"].tolist().index(content.metadata["tokenizer.eot_id"])
    names[eot_row] = EOT
    merges = [[names[left], names[right]] for left, right, _ in tables["merges"].tolist()]
    vocabulary = {name: row for row, name in enumerate(names) if name}
    inner = _assembled(vocabulary, merges, eot_row)
    if "tokenizer.original" not in content.tensors:
        return inner
    original = content.tensors["tokenizer.original"].array().tolist()
    return PrunedTokenizer(inner, len(original), original)


def _assembled(vocabulary: dict[str, int], merges: list[list[str]], eot_row: int) -> BPETokenizer:
    """A tokenizer that cuts by GPT-2's pattern, as `tokenizer_builders` make it."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    fast = tokenizers.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    fast.decoder = decoders.ByteLevel()  # type: ignore
    fast.add_special_tokens([EOT])
    document = json.loads(fast.to_str())
    document["model"] |= {"vocab": vocabulary, "merges": merges}
    document["added_tokens"][0]["id"] = eot_row
    found = tokenizer_from_json(json.dumps({"kind": "bpe", "eot": EOT, "tokenizer": document}))
    assert isinstance(found, BPETokenizer)
    return found


def _merging(tokenizer: BPETokenizer, known: int) -> Tables:
    """Of a byte-pair encoding; ids from `known` on only arise on the way to others."""
    document = document_of(tokenizer)
    if not _is_plain(document):
        return {}, {}
    vocabulary = document["model"]["vocab"]
    tokens = [tokenizer.token_bytes(id_) for id_ in range(tokenizer.vocab_size)]
    is_token = {*vocabulary.values(), tokenizer.eot_id}
    ids = [id_ if id_ < known and id_ in is_token else -1 for id_ in range(len(tokens))]
    rows = [
        (vocabulary[left], vocabulary[right], vocabulary[left + right])
        for left, right in merges_of(document)
    ]
    scheme, dtype = ("u16", np.uint16) if len(tokens) <= 2**16 else ("u32", np.uint32)
    merges = StoredTensor.of(np.array(rows, dtype).reshape(-1, 3), scheme)
    facts: dict[str, Value] = {"tokenizer.kind": "bpe", "tokenizer.eot_id": tokenizer.eot_id}
    return facts, _table(tokens, ids) | {"tokenizer.merges": merges}


def _table(tokens: list[bytes], ids: list[int]) -> dict[str, StoredTensor]:
    offsets = np.cumsum([0, *map(len, tokens)], dtype=np.uint32)
    return {
        "tokenizer.offsets": StoredTensor.of(offsets, "u32"),
        "tokenizer.bytes": StoredTensor.of(np.frombuffer(b"".join(tokens), np.uint8), "u8"),
        "tokenizer.ids": StoredTensor.of(np.array(ids, np.int32), "i32"),
    }


def _is_plain(document: dict[str, Any]) -> bool:
    """Whether a tokenizer cuts by GPT-2's pattern and then merges bytes, and does nothing else."""
    model, cut = document["model"], document["pre_tokenizer"] or {}
    return (
        document["normalizer"] is None
        and cut.get("type") == "ByteLevel"
        and not cut.get("add_prefix_space")
        and cut.get("use_regex", True)
        and all(token["special"] for token in document["added_tokens"])
        and model["type"] == "BPE"
        and not any(
            model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
        )
        and not model.get("ignore_merges")
        and all(character in model["vocab"] for character in byte_characters())
    )
