/* Version 1: the blind model; frozen neurons as indices of patterns, then the active ones.
 *
 * The file lacks the scales of position embeddings, values and temperatures and the order of
 * neurons before they were sorted: they are read with the scales that are there, as its own runtime
 * does (docs/crystal_runtime.md). */
#include "failure.h"
#include "old_layout.h"

/* Width of elements, as the mode says. */
typedef struct {
    Scheme embedding;
    Scheme rest;    /* neurons, temperatures, head */
} Mode;

static size_t element_bytes(Scheme scheme) {
    return scheme == SCHEME_F32 ? 4 : scheme == SCHEME_INT16_TENSOR ? 2 : 1;
}

static bool mode_of(unsigned flags, Mode *mode, char *error) {
    switch (flags & ~FLAG_PRUNED) {
    case 0:
        *mode = (Mode){SCHEME_INT8_TENSOR, SCHEME_INT8_TENSOR};
        return true;
    case FLAG_F32:
        *mode = (Mode){SCHEME_F32, SCHEME_F32};
        return true;
    case FLAG_INT16:
        *mode = (Mode){SCHEME_INT16_TENSOR, SCHEME_INT16_TENSOR};
        return true;
    case FLAG_MIXED | FLAG_INT16:
        *mode = (Mode){SCHEME_F32, SCHEME_INT16_TENSOR};
        return true;
    case FLAG_MIXED8:
        *mode = (Mode){SCHEME_F32, SCHEME_INT8_TENSOR};
        return true;
    default:
        return cr_fail(error, "flags 0x%04x contradict each other", flags);
    }
}

/* Elements as floats; integers of two bytes may lie at odd addresses. */
static void read_elements(
    Scheme scheme, const uint8_t *scales, const uint8_t *at, size_t count, float *out) {
    const float scale = cr_f32(scales), offset = cr_f32(scales + sizeof(float));
    for (size_t i = 0; i < count; i++) {
        if (scheme == SCHEME_F32)
            out[i] = cr_f32(at + 4 * i);
        else if (scheme == SCHEME_INT16_TENSOR)
            out[i] = (float)(int16_t)cr_u16(at + 2 * i) * scale + offset;
        else
            out[i] = (float)(int8_t)at[i] * scale + offset;
    }
}

static const float *take_floats(
    OldReader *reader, Scheme scheme, const uint8_t *scales, size_t count) {
    if (scheme == SCHEME_F32)
        return cr_old_floats(reader, count);
    const uint8_t *at = cr_old_take(reader, count, element_bytes(scheme));
    float *floats =
        at == NULL ? NULL : cr_own(reader->model, count, sizeof(float), reader->error);
    reader->good = floats != NULL;
    if (floats != NULL)
        read_elements(scheme, scales, at, count, floats);
    return floats;
}

/* Where it lies if it is aligned, else a copy. */
static Matrix take_matrix(
    OldReader *reader, Scheme scheme, const uint8_t *scales, size_t rows, size_t cols) {
    if (scheme == SCHEME_F32)
        return cr_old_matrix(reader, rows, cols);
    const size_t element = element_bytes(scheme);
    const uint8_t *at = cr_old_take(reader, rows, cols * element);
    if (at == NULL)
        return (Matrix){0};
    if ((uintptr_t)at % element != 0) {
        uint8_t *copy = cr_own(reader->model, rows, cols * element, reader->error);
        reader->good = copy != NULL;
        if (copy == NULL)
            return (Matrix){0};
        memcpy(copy, at, rows * cols * element);
        at = copy;
    }
    return cr_matrix(scheme, rows, cols, at, scales);
}

/* A count that the header has too. */
static void take_count(OldReader *reader, size_t header_offset, const char *name) {
    const uint8_t *at = cr_old_take(reader, 1, 4);
    if (at != NULL && cr_u32(at) != cr_u16(reader->model->file.data + header_offset))
        reader->good = cr_fail(reader->error, "section %s: not as many as the header says", name);
}

/* Positions and values of all neurons, frozen ones first. */
static void bind_neurons(OldReader *reader, Field *field, Scheme scheme, const uint8_t *scales) {
    const uint8_t *data = reader->model->file.data;
    const size_t width = reader->model->d_model, frozen = cr_u16(data + 20);
    const size_t pair = 2 * width * element_bytes(scheme), patterns = cr_u16(data + 24);
    cr_old_section(reader, 36, "patterns");
    take_count(reader, 24, "patterns");
    const uint8_t *shared = cr_old_take(reader, patterns, pair);
    cr_old_section(reader, 40, "mapping");
    const uint8_t *mapping = cr_old_take(reader, frozen, 2);
    cr_old_section(reader, 44, "active");
    take_count(reader, 22, "active");
    const uint8_t *active = cr_old_take(reader, field->count - frozen, pair);
    if (active == NULL)
        return;
    float *positions =
        cr_own(reader->model, field->count, width * sizeof(float), reader->error);
    float *values = cr_own(reader->model, field->count, width * sizeof(float), reader->error);
    reader->good = positions != NULL && values != NULL;
    for (size_t n = 0; reader->good && n < field->count; n++) {
        const uint8_t *neuron = active + (n - frozen) * pair;
        if (n < frozen) {
            const size_t pattern = cr_u16(mapping + 2 * n);
            if (pattern >= patterns) {
                reader->good = cr_fail(reader->error, "section mapping: no pattern %zu", pattern);
                return;
            }
            neuron = shared + pattern * pair;
        }
        read_elements(scheme, scales, neuron, width, positions + n * width);
        read_elements(scheme, scales, neuron + pair / 2, width, values + n * width);
    }
    field->positions =
        cr_matrix(SCHEME_F32, field->count, width, (const uint8_t *)positions, NULL);
    field->values = cr_matrix(SCHEME_F32, field->count, width, (const uint8_t *)values, NULL);
}

bool cr_bind_v1(Crystal *model, char *error) {
    OldReader reader;
    Mode mode = {SCHEME_F32, SCHEME_F32};
    if (!cr_old_header(
            &reader, model,
            FLAG_PRUNED | FLAG_F32 | FLAG_INT16 | FLAG_MIXED | FLAG_MIXED8, error) ||
        !mode_of(cr_u16(model->file.data + 6), &mode, error))
        return false;
    if (cr_u16(model->file.data + 26) != 2 * model->d_model)
        return cr_fail(error, "patterns must be twice as long as the model is wide");
    Block *block = model->blocks;
    cr_old_section(&reader, 32, "scales");
    const uint8_t *scales = cr_old_take(&reader, 8, sizeof(float));
    if (scales == NULL)
        return false;
    const uint8_t *of_embedding = scales, *of_neurons = scales + 8, *of_head = scales + 16;
    bind_neurons(&reader, &block->field, mode.rest, of_neurons);
    cr_old_section(&reader, 48, "embedding");
    model->embedding =
        take_matrix(&reader, mode.embedding, of_embedding, model->vocab_size, model->d_model);
    cr_old_section(&reader, 52, "positions");
    model->position_embedding = take_matrix(
        &reader, mode.embedding, of_embedding, model->context_length, model->d_model);
    const float *temperatures =
        reader.good ? take_floats(&reader, mode.rest, of_neurons, block->field.count) : NULL;
    cr_old_field(&reader, &block->field, temperatures);
    cr_old_section(&reader, 56, "MLP");
    cr_old_mlp(&reader, block);
    cr_old_section(&reader, 60, "head");
    model->head =
        take_matrix(&reader, mode.rest, of_head, model->vocab_size, model->d_model);
    if (reader.good)
        model->head_bias =
            take_floats(&reader, mode.rest, scales + 24, model->vocab_size);
    cr_old_norm(&reader, &block->field_norm);
    cr_old_norm(&reader, &block->mlp_norm);
    cr_old_end(&reader);
    return reader.good;
}
