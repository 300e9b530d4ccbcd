"""The fiction of H. P. Lovecraft, split by story."""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.corpora.corpus import Corpus
from datamodules.corpora.hub import Rows, fetch_folder
from datamodules.documents import Document, read_files, require_text, separated
from datamodules.splits import Splits, split_by_name, split_file, split_folder

REPOSITORY = "TristanBehrens/lovecraftcorpus"
VALIDATION = ("colour out of space", "erich zann", "ulthar", "outsider", "festival")
TEST = ("doorstep", "pickman", "white ship", "unnamable", "cool air")
"""Words by which every edition names these stories, and no other."""
MANY_STORIES = 500
"""More than any edition has."""


class Lovecraft(Corpus):
    """A folder with one story a file, or one file with lines `<|endoftext|>` between stories.

    Stories are recognised by file name or first line; where none is, the general rules for files
    and folders apply. The edition on the hub is not the one in other places: fingerprints differ.
    """

    name = "lovecraft"

    def fetch(self, downloads: Path) -> Path:
        return fetch_folder(self.name, downloads, REPOSITORY, None, stories_of)

    def read(self, path: Path) -> Splits:
        files = require_text(read_files(path), path)
        documents = [document for file in files for document in separated(file)]
        stories = [Document(story_name(d), d.content) for d in documents]
        if {split_of(story.name) for story in stories} >= {"train", "val", "test"}:
            return split_by_name(stories, split_of)
        return split_file(documents) if path.is_file() else split_folder(documents)


def story_name(document: Document) -> str:
    """File name and, where it is short enough for a title, first line; lower-case words."""
    first = bytes(document.content[:200]).split(b"\n")[0].decode(errors="ignore")
    title = first if len(first) < 80 else ""
    return " ".join(re.findall(r"[a-z0-9]+", f"{document.name} {title}".lower()))


def split_of(name: str) -> str:
    """The split of the story with this name."""
    if any(words in name for words in VALIDATION):
        return "val"
    return "test" if any(words in name for words in TEST) else "train"


def stories_of(splits: Rows) -> dict[str, str]:
    """Text by file name. Rows that share a name are parts or lines of one story.

    Without a column of names, rows are stories; if they are far too many for that, lines.
    """
    rows = [row for split in splits.values() for row in split]
    columns = [key for key, value in rows[0].items() if isinstance(value, str)]
    text = "text" if "text" in columns else max(columns, key=lambda c: sum(len(r[c]) for r in rows))
    names = [column for column in columns if column != text]
    if not names and len(rows) > MANY_STORIES:
        return {"lovecraft.txt": "\n".join(row[text] for row in rows)}
    stories: dict[str, list[str]] = {}
    for number, row in enumerate(rows):
        label = Path(row[names[0]]).stem if names else f"{number:03}"
        stories.setdefault(re.sub(r"\W+", "_", label).strip("_"), []).append(row[text])
    return {f"{name}.txt": "\n".join(parts) for name, parts in stories.items()}
