"""Which documents are for training, validation and test."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from crystalline.errors import UserError
from datamodules.documents import Document, Split, character_border

SPLITS = ("train", "val", "test")
MIN_DOCUMENTS = 20
"""From this many documents on, each goes to one split as a whole."""

Splits = dict[str, Split]


def make_splits(train: list[Document], val: list[Document], test: list[Document]) -> Splits:
    """Named splits.

    Raises:
        UserError: If one of them has no content.
    """
    splits = {
        name: Split(documents) for name, documents in zip(SPLITS, (train, val, test), strict=True)
    }
    for name, split in splits.items():
        if not split:
            raise UserError(
                f"the {name} split of this corpus is empty; "
                "name a larger file or folder by data.path"
            )
    return splits


def split_by_name(documents: list[Document], split_of: Callable[[str], str]) -> Splits:
    """Each document whole, into the split that its name asks for."""
    groups: dict[str, list[Document]] = {name: [] for name in SPLITS}
    for document in documents:
        groups[split_of(document.name)].append(document)
    return make_splits(**groups)


def split_folder(documents: list[Document]) -> Splits:
    """90/5/5: whole documents where there are enough, else 90/5/5 of each document's bytes.

    Whole documents are ranked by a hash of their names, so that the order of files, or one file
    more, moves hardly any of them to another split.
    """
    if len(documents) < MIN_DOCUMENTS:
        return split_each(documents)
    ranked = sorted(documents, key=lambda d: hashlib.sha256(d.name.encode()).digest())
    share = max(1, round(len(documents) / 20))
    val = {document.name for document in ranked[:share]}
    test = {document.name for document in ranked[share : 2 * share]}
    return split_by_name(
        documents, lambda name: "val" if name in val else "test" if name in test else "train"
    )


def split_file(documents: list[Document]) -> Splits:
    """90/5/5 by bytes of one file that holds `documents` in order.

    Where there are enough documents the cuts move to the nearest border between two of them.
    """
    total, seen = sum(len(document.content) for document in documents), 0
    groups: dict[str, list[Document]] = {name: [] for name in SPLITS}
    for document in documents:
        middle = seen + len(document.content) / 2
        seen += len(document.content)
        name = "train" if middle < 0.9 * total else "val" if middle < 0.95 * total else "test"
        groups[name].append(document)
    if len(documents) < MIN_DOCUMENTS or not all(groups.values()):
        return split_each(documents)
    return make_splits(**groups)


def split_each(documents: list[Document]) -> Splits:
    """The first 90 % of the bytes of each document, the next 5 %, the last 5 %.

    Cuts fall between UTF-8 characters, at floor(0.9 n) or up to three bytes before it.
    """
    groups: dict[str, list[Document]] = {name: [] for name in SPLITS}
    for document in documents:
        size = len(document.content)
        first = character_border(document.content, size * 90 // 100)
        second = character_border(document.content, size * 95 // 100)
        ends = (0, first, second, size)
        for name, start, stop in zip(SPLITS, ends, ends[1:], strict=False):
            groups[name].append(document.part(start, stop))
    return make_splits(**groups)
