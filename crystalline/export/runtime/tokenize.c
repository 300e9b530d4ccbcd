/* From text to ids: cut, merge, and fall back where the model does not know a token. */
#include "bytes.h"
#include "crystal.h"
#include "failure.h"
#include "file.h"
#include "model.h"

/* Ids of a row, or of what it was merged from. `stack` has room for as many rows as it has bytes.
 * Returns how many were written; -1 for a byte that the model does not know, put into `*unknown`. */
static int64_t ids_of_row(
    const Tokenizer *tokenizer, uint32_t row, int32_t *ids, uint32_t *stack, uint8_t *unknown) {
    size_t depth = 0;
    int64_t count = 0;
    stack[depth++] = row;
    while (depth > 0) {
        const uint32_t top = stack[--depth];
        if (tokenizer->ids[top] >= 0) {
            ids[count++] = tokenizer->ids[top];
            continue;
        }
        const uint32_t merge = tokenizer->merge_of_row[top];
        const uint32_t first = tokenizer->offsets[top], end = tokenizer->offsets[top + 1];
        if (merge != NO_ROW) {
            stack[depth++] = cr_merge_part(tokenizer, merge, 1);
            stack[depth++] = cr_merge_part(tokenizer, merge, 0);
            continue;
        }
        for (uint32_t at = end; at-- > first;) {    /* no merge makes it: its bytes */
            *unknown = tokenizer->bytes[at];
            if (end - first == 1 || tokenizer->single[*unknown] == NO_ROW)
                return -1;
            stack[depth++] = tokenizer->single[*unknown];
        }
    }
    return count;
}

/* Rows of a piece, a byte each, merged. Returns how many, or -1. */
static int64_t rows_of_piece(
    const Tokenizer *tokenizer, const uint8_t *piece, size_t bytes, uint32_t *rows,
    uint32_t *scratch, uint8_t *unknown) {
    for (size_t i = 0; i < bytes; i++) {
        rows[i] = tokenizer->single[piece[i]];
        if (rows[i] == NO_ROW) {
            *unknown = piece[i];
            return -1;
        }
    }
    if (tokenizer->kind == TOKENIZER_BYTES)
        return (int64_t)bytes;
    return (int64_t)cr_merge_all(tokenizer, rows, bytes, scratch);
}

int64_t crystal_tokenize(
    const Crystal *model, const char *text, size_t bytes, int32_t *ids, char *error) {
    const Tokenizer *tokenizer = &model->tokenizer;
    if (tokenizer->kind == TOKENIZER_NONE) {
        cr_fail(error, "the file holds no tokenizer; give ids in place of text");
        return -1;
    }
    if (bytes > INT32_MAX / 8) {
        cr_fail(error, "a text of %zu bytes is too long", bytes);
        return -1;
    }
    uint32_t *rows = cr_allocate(bytes + 1, 8 * sizeof(uint32_t));
    if (rows == NULL) {
        cr_fail(error, "no memory for the text");
        return -1;
    }
    uint32_t *stack = rows + bytes + 1, *scratch = stack + bytes + 1;
    const uint8_t *at = (const uint8_t *)text, *end = at + bytes;
    uint8_t unknown = 0;
    int64_t count = 0;
    while (count >= 0 && at < end) {
        const size_t left = (size_t)(end - at);
        const size_t length = tokenizer->kind == TOKENIZER_BPE ? cr_piece(at, left) : 1;
        const int64_t found = rows_of_piece(tokenizer, at, length, rows, scratch, &unknown);
        for (int64_t i = 0; count >= 0 && i < found; i++) {
            const int64_t added = ids_of_row(tokenizer, rows[i], ids + count, stack, &unknown);
            count = added < 0 ? -1 : count + added;
        }
        if (found < 0)
            count = -1;
        at += length;
    }
    cr_release(rows);
    if (count < 0)
        cr_fail(error, "the model has no token for the byte 0x%02x of the text", unknown);
    return count;
}
