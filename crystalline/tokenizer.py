"""Text to token ids and back: byte-level BPE, plain bytes, digits; others by their kind."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tokenizers

EOT = "<|endoftext|>"
"""The token that stands between documents and opens every stream."""


class Tokenizer(ABC):
    """A lossless map between UTF-8 text and token ids, with one special token between documents.

    The characters `<|endoftext|>` inside a text are text: only `eot_id` itself is special.
    """

    vocab_size: int
    """Number of ids V; ids lie in [0, V)."""
    eot_id: int
    """Id of `<|endoftext|>`."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`; never `eot_id`."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes that a token stands for, perhaps a part of a character; b"" if special."""

    @abstractmethod
    def to_json(self) -> str:
        """Everything that `tokenizer_from_json` needs; the same text for equal tokenizers."""

    def encode_bytes(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """Ids of each of several UTF-8 texts.

        Raises:
            UnicodeDecodeError: If a piece is not UTF-8 and the tokenizer needs characters.
        """
        return [self.encode(piece.decode()) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; special tokens vanish, bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes(int(token)) for token in ids).decode(errors="replace")


class ByteTokenizer(Tokenizer):
    """The 256 byte values are the ids; `<|endoftext|>` is 256."""

    vocab_size = 257
    eot_id = 256

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_bytes(self, pieces: Sequence[bytes]) -> list[list[int]]:
        """Ids of each of several byte strings, text or not."""
        return [list(piece) for piece in pieces]

    def token_bytes(self, token: int) -> bytes:
        return bytes([token]) if token != self.eot_id else b""

    def to_json(self) -> str:
        return json.dumps({"kind": "bytes"})


class DigitTokenizer(Tokenizer):
    """The digits of a number base are the ids; the special id after them is start and end.

    Args:
        base: Number of digits, 2 to 16; digits from ten on are written a to f.
    """

    def __init__(self, base: int = 10) -> None:
        if not 2 <= base <= 16:
            raise ValueError(f"base must lie between 2 and 16, got {base}")
        self.vocab_size = base + 1
        self.eot_id = base
        self._digits = "0123456789abcdef"[:base]

    def encode(self, text: str) -> list[int]:
        """Ids of a string of digits; whitespace is skipped.

        Raises:
            ValueError: If another character occurs.
        """
        digits = "".join(text.split())
        strange = sorted(set(digits) - set(self._digits))
        if strange:
            raise ValueError(
                f"a digit tokenizer of base {self.eot_id} cannot encode {strange[0]!r}"
            )
        return [self._digits.index(digit) for digit in digits]

    def token_bytes(self, token: int) -> bytes:
        return self._digits[token].encode() if token != self.eot_id else b""

    def to_json(self) -> str:
        return json.dumps({"kind": "digits", "base": self.eot_id})


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding: every text has ids, and every id stands for bytes.

    Args:
        fast: Tokenizer of the `tokenizers` library whose decoder is `ByteLevel`.
        eot: Content of the special token between documents.

    Raises:
        ValueError: If the tokenizer is not byte-level or lacks `eot`.
    """

    def __init__(self, fast: tokenizers.Tokenizer, eot: str = EOT) -> None:
        document = json.loads(fast.to_str())
        if '"ByteLevel"' not in json.dumps(document["decoder"]):
            raise ValueError("only byte-level tokenizers give back every text unchanged")
        eot_id = fast.token_to_id(eot)
        if eot_id is None:
            raise ValueError(f"the tokenizer has no token {eot!r}")
        fast.encode_special_tokens = True  # text that looks like a special token is text
        fast.no_truncation()
        fast.no_padding()
        self._fast = fast
        self._eot = eot
        self.eot_id = eot_id
        self._bytes = _bytes_of_tokens(fast, document["added_tokens"])
        self.vocab_size = len(self._bytes)

    def encode(self, text: str) -> list[int]:
        return self._fast.encode(text, add_special_tokens=False).ids

    def encode_bytes(self, pieces: Sequence[bytes]) -> list[list[int]]:
        texts = [piece.decode() for piece in pieces]
        return [e.ids for e in self._fast.encode_batch_fast(texts, add_special_tokens=False)]

    def token_bytes(self, token: int) -> bytes:
        return self._bytes[token]

    def to_json(self) -> str:
        document = {"kind": "bpe", "eot": self._eot, "tokenizer": json.loads(self._fast.to_str())}
        return json.dumps(document, ensure_ascii=False)


def tokenizer_from_json(text: str) -> Tokenizer:
    """The tokenizer whose `to_json` gave `text`.

    Raises:
        ValueError: If the kind is unknown.
    """
    document = json.loads(text)
    match document.get("kind"):
        case "bytes":
            return ByteTokenizer()
        case "digits":
            return DigitTokenizer(document["base"])
        case "words":
            from crystalline.word_tokenizer import WordTokenizer

            return WordTokenizer(document["words"])
        case "bpe":
            import tokenizers

            fast = tokenizers.Tokenizer.from_str(json.dumps(document["tokenizer"]))
            return BPETokenizer(fast, document["eot"])
        case "sentencepiece":
            from crystalline.sentencepiece import SentencePieceTokenizer

            return SentencePieceTokenizer(document["pieces"], document["scores"])
        case "pruned":
            from crystalline.pruned_tokenizer import PrunedTokenizer

            inner = tokenizer_from_json(json.dumps(document["inner"]))
            assert isinstance(inner, BPETokenizer)
            return PrunedTokenizer(inner, document["vocab_size"], document["original"])
        case kind:
            raise ValueError(f"unknown kind of tokenizer: {kind!r}")


def _bytes_of_tokens(fast: tokenizers.Tokenizer, added: list[dict]) -> list[bytes]:
    """Bytes of every id; gaps in the vocabulary are empty."""
    vocabulary = fast.get_vocab(with_added_tokens=True)
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    special = {token["id"]: b"" for token in added if token["special"]}
    literal = {token["id"]: token["content"].encode() for token in added if not token["special"]}
    values = [b""] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if index not in special and index not in literal:
            values[index] = bytes(byte_of[character] for character in token)
    for index, value in (special | literal).items():
        values[index] = value
    return values


def byte_characters() -> list[str]:
    """The printable character by which GPT-2's vocabularies write each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
