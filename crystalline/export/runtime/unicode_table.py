"""Write unicode_table.h: which characters are letters, numbers and spaces to GPT-2's pattern.

The authority is the pattern as the `tokenizers` library runs it, so that ids agree with Python's.

python -m crystalline.export.runtime.unicode_table
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from crystalline.files import write_atomically

OTHER, SPACE, LETTER, NUMBER = range(4)
_HEADER = """\
/* Written by unicode_table.py: first character of each range, times four, plus its class. */
#ifndef CRYSTAL_UNICODE_TABLE_H
#define CRYSTAL_UNICODE_TABLE_H

#include <stdint.h>

static const uint32_t unicode_ranges[] = {
"""
_FOOTER = """\
};

#endif
"""


def classes(points: Iterable[int]) -> list[int]:
    """The class of each code point; surrogates, which no text holds, are OTHER."""
    from tokenizers import pre_tokenizers

    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str  # type: ignore

    def joins(neighbour: str, character: str) -> bool:
        return len(cut(neighbour + character)) == 1

    found = []
    for point in points:
        character = chr(point)
        if 0xD800 <= point < 0xE000 or joins("!", character):
            found.append(OTHER)
        elif joins("a", character):
            found.append(LETTER)
        else:
            found.append(NUMBER if joins("1", character) else SPACE)
    return found


def ranges(found: list[int]) -> list[int]:
    """Where the class changes: first code point times four, plus the class."""
    return [
        point * 4 + kind
        for point, kind in enumerate(found)
        if point == 0 or kind != found[point - 1]
    ]


def table(numbers: list[int]) -> str:
    """The header file."""
    lines = [numbers[start : start + 12] for start in range(0, len(numbers), 12)]
    body = "".join("    " + " ".join(f"{number}," for number in line) + "\n" for line in lines)
    return _HEADER + body + _FOOTER


def main() -> None:
    path = Path(__file__).with_name("unicode_table.h")
    write_atomically(path, table(ranges(classes(range(sys.maxunicode + 1)))))


if __name__ == "__main__":
    main()
