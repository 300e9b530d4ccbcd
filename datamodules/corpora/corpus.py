"""A corpus: where its text is found, and how it is split."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from pathlib import Path

from crystalline.errors import UserError
from datamodules.documents import find_files
from datamodules.splits import Splits

_logger = logging.getLogger(__name__)


class Corpus(ABC):
    """Found at `data.path`, else at `<data_dir>/<name>`, else at its public home.

    Args:
        data_dir: Folder with corpora, one a folder; read-only.
    """

    name: str

    def __init__(self, data_dir: str) -> None:
        self.data_dir = Path(data_dir).expanduser()

    def splits(self, path: str | None, cache_dir: Path) -> Splits:
        """Train, val and test.

        Args:
            path: File or folder that the user names; None to search.
            cache_dir: Where a download is kept.

        Raises:
            UserError: If there is no copy, or none that can be read.
        """
        found = self.find(path, cache_dir / "corpora")
        _logger.info("Reading %s from %s", self.name, found)
        return self.read(found)

    def find(self, path: str | None, downloads: Path) -> Path:
        """The file or folder to read."""
        if path is not None:
            named = Path(path).expanduser()
            if not named.exists():
                raise UserError(f"data.path={path} does not exist; name a file or folder")
            return named
        local = self.data_dir / self.name
        if local.is_dir() and find_files(local):
            return local
        return self.fetch(downloads)

    @abstractmethod
    def fetch(self, downloads: Path) -> Path:
        """A copy from the public home; what is downloaded lies below `downloads` afterwards."""

    @abstractmethod
    def read(self, path: Path) -> Splits:
        """The splits of the copy at `path`."""


def no_copy(name: str, reason: str) -> UserError:
    """The one line for a corpus that is neither here nor can be fetched."""
    return UserError(
        f"no copy of {name} ({reason}); name one by data.path, or set CRYSTALLINE_DATA_DIR to a "
        f"folder that holds {name}/, or take data=shakespeare, which needs no download"
    )
