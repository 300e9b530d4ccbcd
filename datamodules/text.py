"""Text, or any bytes, as windows of tokens."""

from __future__ import annotations

from typing import Any

from crystalline.errors import UserError
from datamodules.corpora.corpus import Corpus
from datamodules.documents import hash_of, is_utf8
from datamodules.splits import SPLITS
from datamodules.streams import StreamDataModule
from datamodules.token_stream import load_stream
from datamodules.tokenizer_builders import TokenizerBuilder


class TextDataModule(StreamDataModule):
    """A corpus, split, tokenised, and cut into windows.

    Args:
        corpus: Finds the text and splits it.
        tokenizer: Makes the tokenizer from the training split.
        options: Of `StreamDataModule`.
    """

    def __init__(self, corpus: Corpus, tokenizer: TokenizerBuilder, **options: Any) -> None:
        super().__init__(corpus.name, **options)
        self.corpus = corpus
        self._builder = tokenizer

    def read(self) -> None:
        splits = self.corpus.splits(self.path, self.cache_dir)
        try:
            self.tokenizer = self._builder.build(splits["train"], self.cache_dir / "tokenizers")
            self.streams = {
                name: load_stream(
                    splits[name],
                    self.tokenizer,
                    self.cache_dir / "tokens",
                    f"{self.corpus.name}-{name}",
                )
                for name in SPLITS
            }
        except UnicodeDecodeError as error:
            raise UserError(
                f"data={self.corpus.name} is not UTF-8 text here; "
                "take tokenizer@data.tokenizer=bytes"
            ) from error
        self.fingerprint = hash_of(*(splits[name].digest for name in SPLITS))
        self.is_text = all(is_utf8(content) for split in splits.values() for content in split)
