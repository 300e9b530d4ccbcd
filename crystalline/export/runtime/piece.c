/* GPT-2's pattern:
 * 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
#include "tokenizer.h"
#include "unicode_table.h"
#include "utf8.h"

typedef enum { CLASS_OTHER, CLASS_SPACE, CLASS_LETTER, CLASS_NUMBER } Class;

/* Of the character at `text`, and its length; bytes that are no character are CLASS_OTHER. */
static Class class_of(const uint8_t *text, size_t bytes, size_t *length) {
    int32_t point;
    *length = cr_utf8_next(text, bytes, &point);
    if (point < 0)
        return CLASS_OTHER;
    /* The last range that begins at or before the character; the first begins at 0. */
    size_t low = 0, high = sizeof unicode_ranges / sizeof *unicode_ranges;
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (unicode_ranges[middle] >> 2 <= (uint32_t)point)
            low = middle;
        else
            high = middle;
    }
    return (Class)(unicode_ranges[low] & 3);
}

/* Bytes of the characters of one class from `text` on; `last` is the length of the last one. */
static size_t run(const uint8_t *text, size_t bytes, Class class, size_t *last) {
    size_t at = 0, length;
    while (at < bytes && class_of(text + at, bytes - at, &length) == class) {
        at += length;
        *last = length;
    }
    return at;
}

static size_t contraction(const uint8_t *text, size_t bytes) {
    if (bytes >= 2 && text[0] == '\'') {
        const uint8_t a = text[1], b = bytes >= 3 ? text[2] : 0;
        if (a == 's' || a == 't' || a == 'm' || a == 'd')
            return 2;
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
            return 3;
    }
    return 0;
}

size_t cr_piece(const uint8_t *text, size_t bytes) {
    size_t length = contraction(text, bytes), last = 1;
    if (length > 0)
        return length;
    const size_t space = text[0] == ' ' && bytes > 1 ? 1 : 0;
    const Class class = class_of(text + space, bytes - space, &length);
    if (class != CLASS_SPACE)
        return space + run(text + space, bytes - space, class, &last);
    const size_t spaces = run(text, bytes, CLASS_SPACE, &last);
    if (spaces == bytes || spaces == last)
        return spaces;
    return spaces - last;   /* the last space goes with the word that follows */
}
