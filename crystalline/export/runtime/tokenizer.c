#include "tokenizer.h"

#include "bytes.h"
#include "crystal.h"
#include "failure.h"
#include "file.h"
#include "model.h"

uint32_t cr_merge_part(const Tokenizer *tokenizer, size_t merge, int part) {
    const uint8_t *at = tokenizer->merges + (3 * merge + (size_t)part) * tokenizer->merge_bytes;
    return tokenizer->merge_bytes == 2 ? cr_u16(at) : cr_u32(at);
}

static size_t slot_of(const Tokenizer *tokenizer, uint32_t left, uint32_t right) {
    const uint64_t mixed = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (size_t)(mixed >> 32) & (tokenizer->slot_count - 1);
}

uint32_t cr_merge_of(const Tokenizer *tokenizer, uint32_t left, uint32_t right) {
    if (tokenizer->merge_count == 0)
        return NO_ROW;
    for (size_t slot = slot_of(tokenizer, left, right);;
         slot = (slot + 1) & (tokenizer->slot_count - 1)) {
        const uint32_t merge = tokenizer->slots[slot];
        if (merge == 0)
            return NO_ROW;
        if (cr_merge_part(tokenizer, merge - 1, 0) == left &&
            cr_merge_part(tokenizer, merge - 1, 1) == right)
            return merge - 1;
    }
}

static size_t length_of(const Tokenizer *tokenizer, size_t row) {
    return tokenizer->offsets[row + 1] - tokenizer->offsets[row];
}

static const Tensor *table(
    const Container *container, const char *name, unsigned rank, char *error) {
    const Tensor *found = cr_container_tensor(container, name);
    if (found == NULL || found->rank != rank) {
        cr_fail(error, found == NULL ? "tensor %s: missing" : "tensor %s: its rank is wrong", name);
        return NULL;
    }
    return found;
}

static bool read_table(Tokenizer *tokenizer, const Container *container, char *error) {
    const Tensor *offsets = table(container, "tokenizer.offsets", 1, error);
    const Tensor *bytes = offsets ? table(container, "tokenizer.bytes", 1, error) : NULL;
    const Tensor *ids = bytes ? table(container, "tokenizer.ids", 1, error) : NULL;
    if (ids == NULL)
        return false;
    if (offsets->scheme != SCHEME_U32 || bytes->scheme != SCHEME_U8 ||
        ids->scheme != SCHEME_I32)
        return cr_fail(error, "tokenizer.offsets, bytes and ids must be u32, u8 and i32");
    if (offsets->cols < 2 || ids->cols != offsets->cols - 1 || ids->cols > INT32_MAX)
        return cr_fail(error, "tokenizer.offsets must be one longer than tokenizer.ids");
    tokenizer->rows = ids->cols;
    tokenizer->offsets = (const uint32_t *)offsets->values;
    tokenizer->bytes = bytes->values;
    tokenizer->ids = (const int32_t *)ids->values;
    if (tokenizer->offsets[0] != 0 || tokenizer->offsets[tokenizer->rows] != bytes->cols)
        return cr_fail(error, "tokenizer.offsets must begin with 0 and end with all bytes");
    for (size_t row = 0; row < tokenizer->rows; row++) {
        const int32_t id = tokenizer->ids[row];
        if (tokenizer->offsets[row + 1] < tokenizer->offsets[row])
            return cr_fail(error, "tokenizer.offsets must not fall");
        if (id < -1 || (id >= 0 && (size_t)id >= tokenizer->vocab_size))
            return cr_fail(error, "tokenizer.ids: %ld is no id of the model", (long)id);
    }
    return true;
}

static bool read_merges(Tokenizer *tokenizer, const Container *container, char *error) {
    const Tensor *merges = table(container, "tokenizer.merges", 2, error);
    if (merges == NULL)
        return false;
    if ((merges->scheme != SCHEME_U16 && merges->scheme != SCHEME_U32) || merges->cols != 3 ||
        merges->rows > INT32_MAX / 4)
        return cr_fail(error, "tokenizer.merges must be u16 or u32, M x 3");
    tokenizer->merges = merges->values;
    tokenizer->merge_bytes = merges->scheme == SCHEME_U16 ? 2 : 4;
    tokenizer->merge_count = merges->rows;
    for (size_t merge = 0; merge < merges->rows; merge++) {
        const uint32_t left = cr_merge_part(tokenizer, merge, 0);
        const uint32_t right = cr_merge_part(tokenizer, merge, 1);
        const uint32_t result = cr_merge_part(tokenizer, merge, 2);
        if (left >= tokenizer->rows || right >= tokenizer->rows || result >= tokenizer->rows)
            return cr_fail(error, "tokenizer.merges: merge %zu names no row of the table", merge);
        const size_t first = length_of(tokenizer, left), second = length_of(tokenizer, right);
        const uint8_t *whole = tokenizer->bytes + tokenizer->offsets[result];
        if (first == 0 || second == 0 || length_of(tokenizer, result) != first + second ||
            memcmp(whole, tokenizer->bytes + tokenizer->offsets[left], first) != 0 ||
            memcmp(whole + first, tokenizer->bytes + tokenizer->offsets[right], second) != 0)
            return cr_fail(
                error, "tokenizer.merges: merge %zu does not give the bytes of its parts", merge);
    }
    return true;
}

/* Of merges by pair; the first of equal pairs counts. */
static void fill_slots(Tokenizer *tokenizer) {
    for (size_t merge = 0; merge < tokenizer->merge_count; merge++) {
        const uint32_t left = cr_merge_part(tokenizer, merge, 0);
        const uint32_t right = cr_merge_part(tokenizer, merge, 1);
        const uint32_t result = cr_merge_part(tokenizer, merge, 2);
        if (tokenizer->merge_of_row[result] == NO_ROW)
            tokenizer->merge_of_row[result] = (uint32_t)merge;
        if (cr_merge_of(tokenizer, left, right) != NO_ROW)
            continue;
        size_t slot = slot_of(tokenizer, left, right);
        while (tokenizer->slots[slot] != 0)
            slot = (slot + 1) & (tokenizer->slot_count - 1);
        tokenizer->slots[slot] = (uint32_t)merge + 1;
    }
}

static bool build(Tokenizer *tokenizer, char *error) {
    tokenizer->slot_count = 16;
    while (tokenizer->slot_count < 2 * tokenizer->merge_count)
        tokenizer->slot_count *= 2;
    tokenizer->slots = cr_allocate(tokenizer->slot_count, sizeof(uint32_t));
    tokenizer->row_of_id = cr_allocate(tokenizer->vocab_size, sizeof(uint32_t));
    tokenizer->merge_of_row = cr_allocate(tokenizer->rows, sizeof(uint32_t));
    if (!tokenizer->slots || !tokenizer->row_of_id || !tokenizer->merge_of_row)
        return cr_fail(error, "no memory for the tokenizer");
    memset(tokenizer->row_of_id, 0xff, tokenizer->vocab_size * sizeof(uint32_t));
    memset(tokenizer->merge_of_row, 0xff, tokenizer->rows * sizeof(uint32_t));
    memset(tokenizer->single, 0xff, sizeof tokenizer->single);
    for (size_t row = tokenizer->rows; row-- > 0;) {  /* so that the first row of a kind wins */
        if (tokenizer->ids[row] >= 0)
            tokenizer->row_of_id[tokenizer->ids[row]] = (uint32_t)row;
        if (length_of(tokenizer, row) == 1)
            tokenizer->single[tokenizer->bytes[tokenizer->offsets[row]]] = (uint32_t)row;
    }
    fill_slots(tokenizer);
    return true;
}

bool cr_tokenizer_open(
    Tokenizer *tokenizer, const Container *container, size_t vocab_size, char *error) {
    *tokenizer = (Tokenizer){.eot_id = -1, .vocab_size = vocab_size};
    const Entry *kind = cr_container_entry(container, "tokenizer.kind");
    const Entry *eot = cr_container_entry(container, "tokenizer.eot_id");
    if (eot != NULL) {
        if (eot->type != ENTRY_U64 || eot->number >= vocab_size)
            return cr_fail(error, "metadata tokenizer.eot_id: no id of the model");
        tokenizer->eot_id = (int32_t)eot->number;
    }
    if (kind == NULL)
        return true;
    const bool bytes = kind->type == ENTRY_TEXT && cr_text_is(kind->text, "bytes");
    if (!bytes && (kind->type != ENTRY_TEXT || !cr_text_is(kind->text, "bpe")))
        return cr_fail(error, "metadata tokenizer.kind: must be bytes or bpe");
    if (!read_table(tokenizer, container, error) ||
        (!bytes && !read_merges(tokenizer, container, error)) || !build(tokenizer, error)) {
        cr_tokenizer_close(tokenizer);
        return false;
    }
    tokenizer->kind = bytes ? TOKENIZER_BYTES : TOKENIZER_BPE;
    return true;
}

void cr_tokenizer_close(Tokenizer *tokenizer) {
    cr_release(tokenizer->slots);
    cr_release(tokenizer->row_of_id);
    cr_release(tokenizer->merge_of_row);
    tokenizer->slots = tokenizer->row_of_id = tokenizer->merge_of_row = NULL;
    tokenizer->kind = TOKENIZER_NONE;
}

const char *crystal_token(const Crystal *model, int32_t id, size_t *bytes) {
    const Tokenizer *tokenizer = &model->tokenizer;
    *bytes = 0;
    if (tokenizer->kind == TOKENIZER_NONE || id < 0 || (size_t)id >= tokenizer->vocab_size ||
        tokenizer->row_of_id[id] == NO_ROW)
        return "";
    const uint32_t row = tokenizer->row_of_id[id];
    *bytes = length_of(tokenizer, row);
    return (const char *)tokenizer->bytes + tokenizer->offsets[row];
}

size_t crystal_detokenize(
    const Crystal *model, const int32_t *ids, size_t count, char *text, size_t room) {
    size_t written = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        const char *token = crystal_token(model, ids[i], &bytes);
        const size_t fits = bytes < room - written ? bytes : room - written;
        if (fits > 0)
            memcpy(text + written, token, fits);
        written += fits;
        all += bytes;
    }
    return all;
}
