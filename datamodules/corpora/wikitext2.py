"""WikiText-2 (Merity et al. 2016, arXiv:1609.07843), word level, in its official splits."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

from datamodules.corpora.corpus import Corpus
from datamodules.corpora.files import TextFiles
from datamodules.corpora.hub import Rows, fetch_folder
from datamodules.documents import Document, read_files, require_text
from datamodules.splits import Splits, make_splits

REPOSITORY, CONFIGURATION = "Salesforce/wikitext", "wikitext-2-v1"
FILES = {
    "train": "wiki.train.tokens",
    "validation": "wiki.valid.tokens",
    "test": "wiki.test.tokens",
}
"""By the hub's name of the split."""

_TITLE = re.compile(rb"(?m)^ \n = [^=\n]+ = \n \n")


class WikiText2(Corpus):
    """A folder with the three files as distributed; each article is a document."""

    name = "wikitext2"

    def fetch(self, downloads: Path) -> Path:
        return fetch_folder(self.name, downloads, REPOSITORY, CONFIGURATION, _files_of)

    def read(self, path: Path) -> Splits:
        files = [path / name for name in FILES.values()]
        if not all(file.is_file() for file in files):
            return TextFiles(str(self.data_dir)).read(path)
        return make_splits(*(articles(file) for file in files))


def articles(path: Path) -> list[Document]:
    """The articles of a file; every byte of it belongs to one."""
    [document] = require_text(read_files(path), path)
    starts = [match.start() for match in _TITLE.finditer(document.content)]
    borders = [0, *(start for start in starts if start > 0), len(document.content)]
    return [document.part(start, stop) for start, stop in pairwise(borders)]


def _files_of(rows: Rows) -> dict[str, str]:
    """The files as distributed; the hub empties their blank lines, which hold one space."""
    return {
        file: "".join(row["text"] or " \n" for row in rows[split]) for split, file in FILES.items()
    }
