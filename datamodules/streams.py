"""Streams of tokens, one a split, as windows."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Integer

from crystalline.errors import UserError
from datamodules.batch import IGNORED, Batch
from datamodules.documents import hash_of
from datamodules.rounds import RoundDataModule
from datamodules.shuffling import shuffled
from datamodules.token_stream import TokenStream
from datamodules.windows import Windows, make_windows

BLOCK_IDS = 2**22
"""Ids whose bytes are counted at once."""


class StreamDataModule(RoundDataModule):
    """Splits that are streams of ids, cut into windows; `read` says where they come from.

    Training windows come in the order that `windows` names. Evaluation windows do not overlap and
    score every token once; the last one is padded.

    Args:
        name: Of the corpus.
        seq_len: Tokens a window T.
        batch_size: Sequences in the global batch of a round, over all processes.
        eval_batch_size: Sequences in an evaluation batch of one process.
        windows: "shuffle", "random" or "overlap".
        stride: Tokens between the starts of windows that overlap.
        seed: Decides the order of training windows.
        cache_dir: Folder for downloads, tokenizers and token files.
        path: File or folder with the corpus; None to search for it.
        shuffle_tokens: Whether the tokens of each window come in a random order, in training and
            evaluation: a control. The last window of a split, if it is padded, keeps its order.
        train_tokens: How many of the training split's first tokens are used, more than `seq_len`,
            for passes over little text; None: all. The tokenizer is that of the whole split.
    """

    streams: dict[str, TokenStream]
    """By split, after `setup`."""

    def __init__(
        self,
        name: str,
        seq_len: int,
        batch_size: int,
        eval_batch_size: int,
        windows: str,
        stride: int,
        seed: int,
        cache_dir: str,
        path: str | None = None,
        shuffle_tokens: bool = False,
        train_tokens: float | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        if seq_len < 1:
            raise UserError(f"data.seq_len must be at least 1, got {seq_len}")
        numeric = isinstance(train_tokens, int | float)
        if train_tokens is not None and not (numeric and train_tokens > seq_len):
            raise UserError(
                f"data.train_tokens must be more than a window of data.seq_len={seq_len} tokens, "
                f"got {train_tokens}"
            )
        self._most = None if train_tokens is None else int(train_tokens)  # 1e6 is a float
        self.name = name
        self.seq_len = seq_len
        self._order = {"kind": windows, "seq_len": seq_len, "seed": seed, "stride": stride}
        self.cache_dir = Path(cache_dir).expanduser()
        self.path = path
        self.shuffle_tokens = shuffle_tokens
        self._seed = seed

    @abstractmethod
    def read(self) -> None:
        """Set `tokenizer`, `streams`, `fingerprint` and `is_text`."""

    def bytes_of(
        self, tokens: Integer[np.ndarray, "*shape"], targets: Integer[np.ndarray, "*shape"]
    ) -> int:
        """Bytes of text that the targets, each after its token, stand for."""
        sizes = [len(self.tokenizer.token_bytes(i)) for i in range(self.tokenizer.vocab_size)]
        return int(np.array(sizes)[targets].sum())

    def prepare_data(self) -> None:
        """Find or download the corpus, train the tokenizer, write the token files; once."""
        if hasattr(self, "streams"):
            return
        self.read()
        if self._most is not None:
            self._use_first(self._most)
        self._windows = self._make_windows()
        self.split_bytes = {
            "train": self._bytes_of_train_eval(),
            "val": self.streams["val"].num_bytes,
            "test": self.streams["test"].num_bytes,
        }

    def setup(self, stage: str | None = None) -> None:
        self.prepare_data()

    @property
    def rounds_per_epoch(self) -> int:
        return math.ceil(self._windows.num_windows / self.batch_size)

    def train_tokens(self) -> np.ndarray:
        return self.streams["train"].ids

    def train_batch(self, round_: int) -> Batch:
        ids, starts = self.train_tokens(), self._windows.starts(round_, self.batch_size)
        places = (starts[:, None] + np.arange(self.seq_len + 1)) % len(ids)
        if self.shuffle_tokens:
            first = round_ * self.batch_size
            places = shuffled(places, list(range(first, first + len(places))), self._seed)
        rows = torch.from_numpy(ids[places].astype(np.int64))
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())

    def num_eval_windows(self, split: str) -> int:
        whole = self._num_windows(split)
        return min(whole, self._num_windows("val")) if split == "train" else whole

    def eval_windows(self, split: str, numbers: np.ndarray) -> Batch:
        ids = self.streams[split].ids
        if split == "train":  # spread evenly over the whole split
            count = self.num_eval_windows(split)
            numbers = numbers * self._num_windows(split) // count
        places = numbers[:, None] * self.seq_len + np.arange(self.seq_len + 1)
        if self.shuffle_tokens:
            whole = places[:, -1] < len(ids)
            places[whole] = shuffled(places[whole], numbers[whole].tolist(), self._seed)
        rows = torch.from_numpy(ids[np.minimum(places, len(ids) - 1)].astype(np.int64))
        past = torch.from_numpy(places >= len(ids))
        tokens = rows.masked_fill(past, self.tokenizer.eot_id)[:, :-1].contiguous()
        return Batch(tokens, rows.masked_fill(past, IGNORED)[:, 1:].contiguous())

    def describe(self) -> list[str]:
        head = f"{'split':<6}{'documents':>11}{'bytes':>14}{'tokens':>14}{'bytes/token':>13}"
        rows = [
            f"{name:<6}{stream.documents:>11,}{stream.num_bytes:>14,}{len(stream.ids):>14,}"
            f"{stream.num_bytes / len(stream.ids):>13.3f}"
            for name, stream in self.streams.items()
        ]
        title = f"{self.name}: fingerprint {self.fingerprint}, vocabulary {self.vocab_size:,}"
        return [title, head, *rows]

    def counted(self, ids: Integer[np.ndarray, " pos"]) -> TokenStream:
        """The ids with their documents and the bytes of all but the first."""
        documents = size = 0
        for start in range(0, len(ids), BLOCK_IDS):
            block = np.asarray(ids[start : start + BLOCK_IDS + 1])
            documents += int((block[:BLOCK_IDS] == self.tokenizer.eot_id).sum())
            size += self.bytes_of(block[:-1], block[1:])
        return TokenStream(ids, documents, size)

    def _use_first(self, count: int) -> None:
        """Leave so many training tokens, and let the fingerprint tell their text.

        Of one text, the first bytes and documents are told by how many there are.
        """
        ids = self.train_tokens()
        if count > len(ids):
            raise UserError(
                f"data.train_tokens must be at most the {len(ids)} tokens of training text here, "
                f"got {count}"
            )
        if count < len(ids):
            self.streams["train"] = used = self.counted(ids[:count])
            self.fingerprint = hash_of(self.fingerprint, str(used.documents), str(used.num_bytes))

    def _num_windows(self, split: str) -> int:
        """Evaluation windows that cover all of a split."""
        return math.ceil((len(self.streams[split].ids) - 1) / self.seq_len)

    def _make_windows(self) -> Windows:
        count = len(self.train_tokens())
        if count <= self.seq_len:
            raise UserError(
                f"a window of data.seq_len={self.seq_len} tokens needs more training text than the "
                f"{count} tokens here; set a smaller model.context_length or name more by data.path"
            )
        return make_windows(num_tokens=count, **self._order)

    def _bytes_of_train_eval(self) -> int:
        """Bytes that `train_eval_dataloader` scores."""
        numbers = np.arange(self.num_eval_windows("train"))
        total = 0
        for part in np.array_split(numbers, math.ceil(len(numbers) / 1024)):
            batch = self.eval_windows("train", part)
            scored = batch.targets.numpy() != IGNORED
            total += self.bytes_of(batch.tokens.numpy()[scored], batch.targets.numpy()[scored])
        return total
