#include "model.h"

#include <math.h>
#include <stdlib.h>

#include "bytes.h"
#include "failure.h"

#define MOST 0x7fffffffu        /* of any size: ids are int32 */
#define WIDTH_FLOOR 0.1f

void *cr_own(Crystal *model, size_t count, size_t size, char *error) {
    void **longer = realloc(model->owned, (model->owned_count + 1) * sizeof *longer);
    void *memory = NULL;
    if (longer != NULL) {
        model->owned = longer;
        memory = cr_allocate(count, size);
    }
    if (memory == NULL) {
        cr_fail(error, "no memory for the model");
        return NULL;
    }
    model->owned[model->owned_count++] = memory;
    return memory;
}

bool cr_check_sizes(const Crystal *model, char *error) {
    const struct { const char *name; size_t value; } sizes[] = {
        {"vocab_size", model->vocab_size}, {"context_length", model->context_length},
        {"d_model", model->d_model}, {"d_mlp", model->d_mlp}, {"num_layers", model->num_layers},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value == 0 || sizes[i].value > MOST)
            return cr_fail(
                error, "%s must lie in 1..%u, got %zu", sizes[i].name, MOST, sizes[i].value);
    if (model->num_heads > 0 && model->d_model % model->num_heads != 0)
        return cr_fail(
            error, "num_heads must divide d_model, got %zu and %zu", model->num_heads,
            model->d_model);
    if (!(model->norm_eps >= 0) || !isfinite(model->norm_eps))
        return cr_fail(error, "norm_eps must be a positive number");
    return true;
}

const float *cr_floats(Crystal *model, const Matrix *matrix, char *error) {
    const uintptr_t address = (uintptr_t)matrix->values;
    if (matrix->scheme == SCHEME_F32 && address % _Alignof(float) == 0)
        return (const float *)matrix->values;
    size_t count;
    if (!cr_multiply(matrix->rows, matrix->cols, &count)) {
        cr_fail(error, "a tensor is too large");
        return NULL;
    }
    float *copy = cr_own(model, count, sizeof(float), error);
    for (size_t row = 0; copy != NULL && row < matrix->rows; row++) {
        if (matrix->scheme == SCHEME_F32)  /* of an old file, where nothing is aligned */
            memcpy(copy + row * matrix->cols, matrix->values + row * matrix->row_bytes,
                   matrix->row_bytes);
        else
            model->kernels->decode(matrix, row, copy + row * matrix->cols);
    }
    return copy;
}

static float softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x));
}

bool cr_prepare_field(
    Crystal *model, Field *field, const float *width, const float *scale, const float *log_mass,
    Width kind, double factor, char *error) {
    float *inverse = cr_own(model, field->count, sizeof(float), error);
    float *squared = cr_own(model, field->count, sizeof(float), error);
    float *row = cr_allocate(cr_round_up(model->d_model, GROUP), sizeof(float));
    if (inverse == NULL || squared == NULL || row == NULL) {
        cr_release(row);
        return cr_fail(error, "no memory for the model");
    }
    for (size_t n = 0; n < field->count; n++) {
        const float own = kind == WIDTH_ABS ? fabsf(width[n]) : softplus(width[n]);
        inverse[n] = 1.0f / ((own + WIDTH_FLOOR) * scale[n] * (float)factor);
        model->kernels->decode(&field->positions, n, row);
        double sum = 0.0;
        for (size_t d = 0; d < model->d_model; d++)
            sum += (double)row[d] * (double)row[d];
        squared[n] = (float)sum;
    }
    cr_release(row);
    field->inverse_tau = inverse;
    field->squared = squared;
    field->log_mass = log_mass;
    return true;
}

static bool bind(Crystal *model, unsigned flags, char *error) {
    if (model->file.bytes < 8)
        return cr_fail(error, "cut off: %zu bytes", model->file.bytes);
    if (memcmp(model->file.data, "CRYS", 4) != 0)
        return cr_fail(error, "not a .crystal file");
    model->version = cr_u16(model->file.data + 4);
    model->published = (flags & CRYSTAL_PUBLISHED) != 0;
    model->kernels = cr_kernels(NULL);
    if (model->published && model->version >= 3)
        return cr_fail(error, "only files of version 1 and 2 had a published runtime");
    switch (model->version) {
    case 1:
        return cr_bind_v1(model, error);
    case 2:
        return cr_bind_v2(model, error);
    case 3:
        return cr_bind_v3(model, error);
    default:
        return cr_fail(error, "version %d is unknown; 1, 2 and 3 are known", model->version);
    }
}

static Crystal *open_bytes(FileBytes file, unsigned flags, char *error) {
    Crystal *model = calloc(1, sizeof *model);
    if (model == NULL) {
        cr_file_close(&file);
        cr_fail(error, "no memory for the model");
        return NULL;
    }
    model->file = file;
    if (bind(model, flags, error))
        return model;
    crystal_close(model);
    return NULL;
}

Crystal *crystal_open(const char *path, unsigned flags, char *error) {
    FileBytes file;
    return cr_file_open(&file, path, error) ? open_bytes(file, flags, error) : NULL;
}

Crystal *crystal_open_memory(const void *data, size_t bytes, unsigned flags, char *error) {
    if ((uintptr_t)data % 64 != 0) {
        cr_fail(error, "the model must start at a multiple of 64 bytes in memory");
        return NULL;
    }
    return open_bytes((FileBytes){data, bytes, false, false}, flags, error);
}

void crystal_close(Crystal *model) {
    if (model == NULL)
        return;
    cr_tokenizer_close(&model->tokenizer);
    cr_container_close(&model->container);
    for (size_t i = 0; i < model->owned_count; i++)
        cr_release(model->owned[i]);
    free(model->owned);
    cr_file_close(&model->file);
    free(model);
}

CrystalInfo crystal_info(const Crystal *model) {
    CrystalInfo info = {
        .version = model->version,
        .vocab_size = model->vocab_size,
        .context_length = model->context_length,
        .d_model = model->d_model,
        .num_layers = model->num_layers,
        .num_heads = model->num_heads,
        .has_tokenizer = model->tokenizer.kind != TOKENIZER_NONE,
        .eot_id = model->tokenizer.eot_id,
        .kernels = model->kernels->name,
    };
    for (size_t layer = 0; layer < model->num_layers; layer++)
        info.neurons += model->blocks[layer].field.count;
    return info;
}
