/* Characters of UTF-8 text. */
#ifndef CRYSTAL_UTF8_H
#define CRYSTAL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the character at `text`, its code point in `*point`. A byte that begins no well-formed
 * character (overlong, surrogate, beyond U+10FFFF, cut off) is one of its own: 1, and -1. */
size_t cr_utf8_next(const uint8_t *text, size_t bytes, int32_t *point);

bool cr_utf8_valid(const uint8_t *text, size_t bytes);

#endif
