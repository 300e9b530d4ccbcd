"""FineWeb (Penedo et al. 2024, arXiv:2406.17557) as published shards of token ids."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from crystalline.errors import UserError
from crystalline.sentencepiece import SentencePieceTokenizer, read_vocab
from datamodules.documents import hash_of, read_bytes
from datamodules.shards import read_shard
from datamodules.splits import SPLITS
from datamodules.streams import StreamDataModule
from datamodules.token_stream import TokenStream

NAME = "fineweb"


class FineWebDataModule(StreamDataModule):
    """Shards `*train*.bin` and `*val*.bin` with one SentencePiece table `*.vocab`, in a folder.

    Documents open with `<s>`. The shards of validation, joined, are halved into val and test. Bytes
    of a token are those of its piece; a space that it begins with counts unless the token before is
    a control piece; control pieces count nothing, their nats do.

    Args:
        variant: Name of the vocabulary, and of the folder below <data_dir>/fineweb.
        data_dir: Folder with corpora, one a folder; read-only.
        train_shards: How many are read, in the order of their names; several are joined in memory.
        options: Of `StreamDataModule`; `path` names the folder itself.

    Raises:
        UserError: If `train_shards` is below 1.
    """

    tokenizer: SentencePieceTokenizer

    def __init__(self, variant: str, data_dir: str, train_shards: int, **options: Any) -> None:
        super().__init__(NAME, **options)
        if train_shards < 1:
            raise UserError(f"data.train_shards must be at least 1, got {train_shards}")
        self.variant = variant
        self.train_shards = train_shards
        own = Path(data_dir).expanduser() / NAME / variant
        self.folder = own if self.path is None else Path(self.path).expanduser()

    def read(self) -> None:
        train = self._files("*train*.bin")[: self.train_shards]
        held_out = self._files("*val*.bin")
        [table, *others] = self._files("*.vocab")
        if others:
            raise UserError(f"{self.folder} holds several .vocab tables; leave one of them there")
        try:
            self.tokenizer = read_vocab(table)
        except ValueError as error:
            raise UserError(f"{table}: {error}") from error
        joined = self._joined(held_out)
        half = len(joined) // 2
        ids = {"train": self._joined(train), "val": joined[:half], "test": joined[half:]}
        self.streams = {name: self._stream(ids[name], name) for name in SPLITS}
        contents = [str(read_bytes(table), "utf-8"), *(_digest(file) for file in train + held_out)]
        self.fingerprint = hash_of(*contents)
        self.is_text = True

    def bytes_of(
        self, tokens: Integer[np.ndarray, "*shape"], targets: Integer[np.ndarray, "*shape"]
    ) -> int:
        return int(self.tokenizer.scored_bytes(tokens, targets).sum())

    def _files(self, pattern: str) -> list[Path]:
        found = sorted(self.folder.glob(pattern))
        if not found:
            raise UserError(
                f"data=fineweb data.variant={self.variant}: there is no {pattern} in {self.folder};"
                " put the published shards and their .vocab there, or name a folder by data.path"
            )
        return found

    def _joined(self, files: list[Path]) -> np.ndarray:
        shards = [read_shard(file) for file in files]
        return shards[0] if len(shards) == 1 else np.concatenate(shards)

    def _stream(self, ids: np.ndarray, split: str) -> TokenStream:
        """See `counted`.

        Raises:
            UserError: If there is next to nothing, or an id that has no piece.
        """
        if len(ids) < 2:
            raise UserError(f"the {split} split of {self.folder} has fewer than two tokens")
        largest = int(ids.max())
        if largest >= self.vocab_size:
            raise UserError(f"{self.folder}: a shard has the id {largest}, its .vocab not")
        return self.counted(ids)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
