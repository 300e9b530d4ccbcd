#include "old_layout.h"

#include <math.h>

#include "failure.h"

#define NULL_LOGIT (-18.420680743952367f)   /* ln 1e-8 */
#define NORM_EPS 1e-5f

bool cr_old_header(OldReader *reader, Crystal *model, unsigned known_flags, char *error) {
    const uint8_t *data = model->file.data;
    *reader = (OldReader){model, {data, data + model->file.bytes}, error, true};
    if (cr_take(&reader->cursor, OLD_HEADER_BYTES) == NULL)
        return cr_fail(error, "cut off: %zu bytes, shorter than a header", model->file.bytes);
    const unsigned flags = cr_u16(data + 6);
    if ((flags & ~known_flags) != 0)
        return cr_fail(error, "flags 0x%04x are unknown", flags & ~known_flags);
    model->vocab_size = cr_u32(data + 8);
    model->d_model = cr_u16(data + 12);
    model->context_length = cr_u16(data + 14);
    model->d_mlp = cr_u16(data + 16);
    model->num_layers = 1;
    model->norm_eps = NORM_EPS;
    model->activation = model->published ? ACTIVATION_GELU_TANH : ACTIVATION_GELU_ERF;
    model->has_null = true;
    model->null_logit = NULL_LOGIT;
    model->tokenizer = (Tokenizer){.eot_id = -1, .vocab_size = model->vocab_size};
    model->blocks = cr_own(model, 1, sizeof(Block), error);
    if (model->blocks == NULL) {
        model->num_layers = 0;
        return false;
    }
    const size_t neurons = cr_u16(data + 18);
    if (neurons == 0)
        return cr_fail(error, "a model without neurons");
    if ((size_t)cr_u16(data + 20) + cr_u16(data + 22) != neurons)
        return cr_fail(error, "frozen and active neurons do not add up to all");
    model->blocks->field.count = neurons;
    return cr_check_sizes(model, error);
}

void cr_old_section(OldReader *reader, size_t header_offset, const char *name) {
    const uint8_t *data = reader->model->file.data;
    const size_t here = (size_t)(reader->cursor.at - data);
    if (reader->good && cr_u32(data + header_offset) != here)
        reader->good = cr_fail(
            reader->error, "section %s: should begin at %zu, the header says %lu", name, here,
            (unsigned long)cr_u32(data + header_offset));
}

const uint8_t *cr_old_take(OldReader *reader, size_t count, size_t size) {
    size_t bytes;
    if (!reader->good)
        return NULL;
    const uint8_t *at =
        cr_multiply(count, size, &bytes) ? cr_take(&reader->cursor, bytes) : NULL;
    if (at == NULL)
        reader->good = cr_fail(
            reader->error, "cut off: it ends within a section of %zu x %zu bytes", count, size);
    return at;
}

const float *cr_old_floats(OldReader *reader, size_t count) {
    const uint8_t *at = cr_old_take(reader, count, sizeof(float));
    if (at == NULL)
        return NULL;
    const Matrix row = cr_matrix(SCHEME_F32, 1, count, at, NULL);
    const float *floats = cr_floats(reader->model, &row, reader->error);
    reader->good = floats != NULL;
    return floats;
}

Matrix cr_old_matrix(OldReader *reader, size_t rows, size_t cols) {
    size_t count;
    const float *floats =
        cr_multiply(rows, cols, &count) ? cr_old_floats(reader, count) : NULL;
    if (floats == NULL)
        return (Matrix){0};
    return cr_matrix(SCHEME_F32, rows, cols, (const uint8_t *)floats, NULL);
}

void cr_old_norm(OldReader *reader, Norm *norm) {
    norm->weight = cr_old_floats(reader, reader->model->d_model);
    norm->bias = cr_old_floats(reader, reader->model->d_model);
}

void cr_old_mlp(OldReader *reader, Block *block) {
    const size_t width = reader->model->d_model, hidden = reader->model->d_mlp;
    block->up = cr_old_matrix(reader, hidden, width);
    block->up_bias = cr_old_floats(reader, hidden);
    block->down = cr_old_matrix(reader, width, hidden);
    block->down_bias = cr_old_floats(reader, width);
}

void cr_old_field(OldReader *reader, Field *field, const float *temperatures) {
    if (!reader->good)
        return;
    float *ones = cr_own(reader->model, field->count, sizeof(float), reader->error);
    float *zeros = cr_own(reader->model, field->count, sizeof(float), reader->error);
    for (size_t n = 0; ones != NULL && n < field->count; n++)
        ones[n] = 1.0f;
    reader->good = ones != NULL && zeros != NULL &&
                   cr_prepare_field(
                       reader->model, field, temperatures, ones, zeros, WIDTH_ABS, 1.0,
                       reader->error);
}

void cr_old_end(OldReader *reader) {
    if (reader->good && reader->cursor.at != reader->cursor.end)
        reader->good = cr_fail(
            reader->error, "%zu bytes behind the end of the last section",
            (size_t)(reader->cursor.end - reader->cursor.at));
}
