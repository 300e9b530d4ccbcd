"""A model as C source: the runtime's own files, with the model's file inside the program."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from crystalline.errors import UserError
from crystalline.export.runtime.build import SOURCES
from crystalline.files import atomic_path, write_atomically

_DATA = """\
/* The model's file, at a multiple of 64 bytes: by the assembler, or as numbers where it cannot. */
#include <stddef.h>
#include <stdint.h>

const void *crystal_model_data(size_t *bytes);

#if defined(__GNUC__) && (defined(__ELF__) || defined(__APPLE__)) && !defined(CRYSTAL_PORTABLE)
#if defined(__APPLE__)
__asm__(".section __TEXT,__const\\n"
        ".balign 64\\n"
        "_crystal_model_start:\\n"
        ".incbin \\"model.crystal\\"\\n"
        ".text\\n");
#else
__asm__(".pushsection .rodata\\n"
        ".balign 64\\n"
        "crystal_model_start:\\n"
        ".incbin \\"model.crystal\\"\\n"
        ".popsection\\n");
#endif
extern const unsigned char crystal_model_start[];
#else
static _Alignas(64) const uint64_t crystal_model_start[] = {
#include "model_words.h"
};
#endif

const void *crystal_model_data(size_t *bytes) {
    *bytes = %d;
    return crystal_model_start;
}
"""
_MAKEFILE = """\
# make: the program `crystal`, which holds its model; make CFLAGS='-O2 -DCRYSTAL_PORTABLE' where the
# assembler cannot include files.

CC ?= cc
CFLAGS ?= -O2
LDLIBS ?= -lm -pthread

crystal: $(wildcard *.c *.h) model.crystal
	$(CC) -std=c11 $(CPPFLAGS) $(CFLAGS) -DCRYSTAL_EMBEDDED -o $@ $(wildcard *.c) $(LDLIBS)

clean:
	rm -f crystal

.PHONY: clean
"""


def write_c_source(model_file: Path, folder: Path) -> Path:
    """Write a program that holds a model; `make` in the folder builds it.

    The folder gets the runtime's sources, the model's file, model_data.c, which puts it into the
    program, and the same bytes as numbers for compilers that cannot include files.

    Args:
        model_file: A .crystal file.
        folder: Made if it is not there; files of these names are replaced.

    Returns:
        Path of model_data.c.

    Raises:
        UserError: If the file cannot be read or is no .crystal file.
    """
    try:
        content = model_file.read_bytes()
    except OSError as error:
        raise UserError(f"{model_file} cannot be read: {error.strerror}") from error
    if content[:4] != b"CRYS":
        raise UserError(f"{model_file} is not a .crystal file; export the checkpoint first")
    folder.mkdir(parents=True, exist_ok=True)
    for source in [*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]:
        if source.name != "fuzz.c":
            shutil.copyfile(source, folder / source.name)
    write_atomically(folder / "model.crystal", content)
    _write_words(folder / "model_words.h", content)
    write_atomically(folder / "Makefile", _MAKEFILE)
    data = folder / "model_data.c"
    write_atomically(data, _DATA % len(content))
    return data


def _write_words(path: Path, content: bytes) -> None:
    """The bytes as numbers of eight, little-endian, zeros behind the end."""
    words = np.frombuffer(content + bytes(-len(content) % 8), "<u8")
    with atomic_path(path) as temporary, temporary.open("w") as file:
        for start in range(0, len(words), 4):
            line = ", ".join(f"0x{word:x}u" for word in words[start : start + 4].tolist())
            file.write(f"    {line},\n")
