"""TinyShakespeare (Karpathy 2015): 40,000 lines of nine plays, one file."""

from __future__ import annotations

from pathlib import Path

from datamodules.corpora.files import TextFiles
from datamodules.download import download
from datamodules.splits import Splits


class TinyShakespeare(TextFiles):
    """The usual split: characters up to 1,003,854 train, up to 1,059,624 val, the rest test.

    Args:
        data_dir: Folder with corpora, one a folder; read-only.
        url: Home of `input.txt`.
        sha256: Its checksum.
    """

    name = "tinyshakespeare"

    def __init__(self, data_dir: str, url: str, sha256: str) -> None:
        super().__init__(data_dir)
        self.url = url
        self.sha256 = sha256

    def fetch(self, downloads: Path) -> Path:
        target = downloads / self.name / "input.txt"
        return download(self.url, target, corpus=self.name, sha256=self.sha256)

    def read(self, path: Path) -> Splits:
        file = path / "input.txt"
        return super().read(file if file.is_file() else path)
