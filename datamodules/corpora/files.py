"""Any text, or any bytes, that the user names."""

from __future__ import annotations

from pathlib import Path

from crystalline.errors import UserError
from datamodules.corpora.corpus import Corpus
from datamodules.documents import find_files, read_files, require_text, separated
from datamodules.splits import Splits, split_file, split_folder


class TextFiles(Corpus):
    """A UTF-8 file, or a folder of them; lines `<|endoftext|>` separate documents."""

    name = "text"

    def fetch(self, downloads: Path) -> Path:
        raise UserError(f"data={self.name} needs data.path=<file or folder>")

    def read(self, path: Path) -> Splits:
        files = require_text(read_files(path), path)
        if path.is_file():
            return split_file(separated(files[0]))
        return split_folder([document for file in files for document in separated(file)])


class AnyFiles(TextFiles):
    """A file or folder of any kind, read as bytes; each file is one document."""

    name = "bytes"

    def read(self, path: Path) -> Splits:
        if not find_files(path):
            raise UserError(f"data.path={path} holds no files")
        return split_folder(read_files(path))
