"""TinyStories (Eldan and Li 2023, arXiv:2305.07759), the stories of GPT-4 (V2)."""

from __future__ import annotations

from pathlib import Path

from datamodules.corpora.files import TextFiles
from datamodules.documents import Document, read_files, require_text, separated
from datamodules.download import download
from datamodules.splits import Splits, make_splits

TRAIN_FILES = ("train.txt", "TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-train-head.txt")
VALIDATION_FILES = ("valid.txt", "TinyStoriesV2-GPT4-valid.txt")
TEST_FILE = "test.txt"
HEAD_BYTES = 100_000_000
"""How much of the 2.2 GB of training text is fetched from home."""
SEPARATOR = b"<|endoftext|>"


class TinyStories(TextFiles):
    """A folder with the files above; without a test file, validation is halved.

    Stories that the home's files cut, the first of validation and the last of the head of train,
    are left out.

    Args:
        data_dir: Folder with corpora, one a folder; read-only.
        url: Folder with the two V2 files at their home.
    """

    name = "tinystories"

    def __init__(self, data_dir: str, url: str) -> None:
        super().__init__(data_dir)
        self.url = url

    def fetch(self, downloads: Path) -> Path:
        folder = downloads / self.name
        for file, target, limit in (
            ("TinyStoriesV2-GPT4-valid.txt", "TinyStoriesV2-GPT4-valid.txt", None),
            ("TinyStoriesV2-GPT4-train.txt", "TinyStoriesV2-GPT4-train-head.txt", HEAD_BYTES),
        ):
            url = f"{self.url}/{file}"
            download(url, folder / target, corpus=self.name, max_bytes=limit)
        return folder

    def read(self, path: Path) -> Splits:
        train = _first_of(path, TRAIN_FILES)
        validation = _first_of(path, VALIDATION_FILES)
        if train is None or validation is None:
            return super().read(path)
        held_out = stories(validation)
        test = path / TEST_FILE
        if test.is_file():
            return make_splits(stories(train), held_out, stories(test))
        half = len(held_out) // 2
        return make_splits(stories(train), held_out[:half], held_out[half:])


def stories(path: Path) -> list[Document]:
    """The whole stories of a file."""
    [document] = read_files(path)
    if path.stem.endswith("-head"):
        document = document.part(0, _last_separator(document.content))
    [document] = require_text([document], path)
    found = separated(document)
    return found[1:] if path.stem == "TinyStoriesV2-GPT4-valid" else found


def _first_of(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _last_separator(content: memoryview) -> int:
    """Where the last separator of the last mebibyte starts."""
    tail = max(0, len(content) - 2**20)
    return tail + max(0, bytes(content[tail:]).rfind(SEPARATOR))
