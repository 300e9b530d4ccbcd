/* Version 3: tensors by name, shapes against what the metadata say. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "bytes.h"
#include "failure.h"
#include "model.h"

/* Where names are looked up, and whether all went well so far: after a failure nothing is done. */
typedef struct {
    Crystal *model;
    char *error;
    bool good;
    size_t layer;
} Binder;

static const Entry *entry(Binder *binder, const char *key, EntryType type, bool required) {
    static const char *const names[] = {"u64", "f64", "text", "a truth value"};
    if (!binder->good)
        return NULL;
    const Entry *found = cr_container_entry(&binder->model->container, key);
    if (found == NULL && required)
        binder->good = cr_fail(binder->error, "metadata %s: missing", key);
    if (found != NULL && found->type != type) {
        binder->good = cr_fail(binder->error, "metadata %s: must be %s", key, names[type]);
        return NULL;
    }
    return found;
}

static size_t size_entry(Binder *binder, const char *key) {
    const Entry *found = entry(binder, key, ENTRY_U64, true);
    if (found == NULL)
        return 0;
    if (found->number > 0x7fffffff)
        binder->good = cr_fail(binder->error, "metadata %s: too large", key);
    return (size_t)found->number;
}

/* Of a finite number; `otherwise` where a key that is not required is absent. */
static double real_entry(Binder *binder, const char *key, bool required, double otherwise) {
    const Entry *found = entry(binder, key, ENTRY_F64, required);
    if (found == NULL)
        return otherwise;
    if (!isfinite(found->real))
        binder->good = cr_fail(binder->error, "metadata %s: must be finite", key);
    return found->real;
}

/* Which of two words a text is: 0 or 1. */
static int choice_entry(Binder *binder, const char *key, const char *first, const char *second) {
    const Entry *found = entry(binder, key, ENTRY_TEXT, true);
    if (found == NULL || cr_text_is(found->text, first))
        return 0;
    if (!cr_text_is(found->text, second))
        binder->good = cr_fail(
            binder->error, "metadata %s: must be %s or %s, got %.*s", key, first, second,
            CR_SHOWN(found->text));
    return 1;
}

static bool truth_entry(Binder *binder, const char *key) {
    const Entry *found = entry(binder, key, ENTRY_TRUTH, true);
    return found != NULL && found->number == 1;
}

/* The tensor "blocks.<layer>.<name>", or `name` itself outside of blocks. */
static const Tensor *tensor(Binder *binder, bool in_block, const char *name) {
    char full[96];
    if (!binder->good)
        return NULL;
    if (in_block)
        snprintf(full, sizeof full, "blocks.%zu.%s", binder->layer, name);
    else
        snprintf(full, sizeof full, "%s", name);
    const Tensor *found = cr_container_tensor(&binder->model->container, full);
    if (found == NULL) {
        binder->good = cr_fail(binder->error, "tensor %s: missing", full);
        return NULL;
    }
    if (!cr_scheme_is_weight(found->scheme)) {
        binder->good = cr_fail(
            binder->error, "tensor %s: weights cannot be %s", full, cr_scheme_name(found->scheme));
        return NULL;
    }
    return found;
}

/* A tensor of rank 2; `rows` 0: any number but none. */
static Matrix matrix(Binder *binder, bool in_block, const char *name, size_t rows, size_t cols) {
    const Tensor *found = tensor(binder, in_block, name);
    if (found == NULL)
        return (Matrix){0};
    const bool right = found->rank == 2 && found->cols == cols &&
                       (rows == 0 ? found->rows > 0 && found->rows <= 0x7fffffff
                                  : found->rows == rows);
    if (!right) {
        binder->good = cr_fail(
            binder->error, "tensor %.*s: its shape must be %zu x %zu", CR_SHOWN(found->name), rows,
            cols);
        return (Matrix){0};
    }
    return cr_matrix(found->scheme, found->rows, found->cols, found->values, found->scales);
}

/* A tensor of rank 1, as floats. */
static const float *vector(Binder *binder, bool in_block, const char *name, size_t length) {
    const Tensor *found = tensor(binder, in_block, name);
    if (found == NULL)
        return NULL;
    if (found->rank != 1 || found->cols != length) {
        binder->good = cr_fail(
            binder->error, "tensor %.*s: its shape must be %zu", CR_SHOWN(found->name), length);
        return NULL;
    }
    const Matrix row = cr_matrix(found->scheme, 1, length, found->values, found->scales);
    const float *floats = cr_floats(binder->model, &row, binder->error);
    binder->good = floats != NULL;
    return floats;
}

static Norm norm(Binder *binder, bool in_block, const char *name) {
    char full[64];
    const size_t width = binder->model->d_model;
    Norm found;
    snprintf(full, sizeof full, "%s.weight", name);
    found.weight = vector(binder, in_block, full, width);
    snprintf(full, sizeof full, "%s.bias", name);
    found.bias = vector(binder, in_block, full, width);
    return found;
}

static void bind_attention(Binder *binder, Block *block) {
    const size_t width = binder->model->d_model;
    block->attention_norm = norm(binder, true, "attention_norm");
    const Matrix all = matrix(binder, true, "attention.qkv.weight", 3 * width, width);
    const float *bias = vector(binder, true, "attention.qkv.bias", 3 * width);
    block->out = matrix(binder, true, "attention.out.weight", width, width);
    block->out_bias = vector(binder, true, "attention.out.bias", width);
    if (!binder->good)
        return;
    block->query = cr_matrix_rows(&all, 0, width);
    block->key = cr_matrix_rows(&all, width, width);
    block->value = cr_matrix_rows(&all, 2 * width, width);
    block->query_bias = bias;
    block->key_bias = bias + width;
    block->value_bias = bias + 2 * width;
}

static void bind_field(Binder *binder, Field *field, Width kind, double factor) {
    const size_t width = binder->model->d_model;
    field->positions = matrix(binder, true, "field.positions", 0, width);
    field->count = field->positions.rows;
    field->values = matrix(binder, true, "field.values", field->count, width);
    const float *own = vector(binder, true, "field.width", field->count);
    const float *log_mass = vector(binder, true, "field.log_mass", field->count);
    const float *scale = vector(binder, true, "field.scale", field->count);
    binder->good = binder->good &&
                   cr_prepare_field(binder->model, field, own, scale, log_mass, kind, factor,
                                    binder->error);
}

static void bind_block(Binder *binder, Block *block, Width kind, double factor) {
    const size_t width = binder->model->d_model, hidden = binder->model->d_mlp;
    char name[64];
    snprintf(name, sizeof name, "blocks.%zu.attention.qkv.weight", binder->layer);
    /* A stack may have attention in its first block alone. */
    block->attends = binder->model->num_heads > 0 &&
                     cr_container_tensor(&binder->model->container, name) != NULL;
    if (block->attends)
        bind_attention(binder, block);
    block->field_norm = norm(binder, true, "field_norm");
    bind_field(binder, &block->field, kind, factor);
    block->mlp_norm = norm(binder, true, "mlp_norm");
    block->up = matrix(binder, true, "mlp.up.weight", hidden, width);
    block->up_bias = vector(binder, true, "mlp.up.bias", hidden);
    block->down = matrix(binder, true, "mlp.down.weight", width, hidden);
    block->down_bias = vector(binder, true, "mlp.down.bias", width);
}

static void read_architecture(Binder *binder, Width *width, double *factor) {
    Crystal *model = binder->model;
    const Entry *arch = cr_container_entry(&model->container, "runtime.arch");
    if (arch == NULL || arch->type != ENTRY_TEXT || !cr_text_is(arch->text, "crystal")) {
        binder->good = cr_fail(
            binder->error, "metadata runtime.arch: not \"crystal\"; this runtime has no other "
            "family");
        return;
    }
    model->vocab_size = size_entry(binder, "runtime.vocab_size");
    model->context_length = size_entry(binder, "runtime.context_length");
    model->d_model = size_entry(binder, "runtime.d_model");
    model->d_mlp = size_entry(binder, "runtime.d_mlp");
    model->num_layers = size_entry(binder, "runtime.num_layers");
    model->num_heads = size_entry(binder, "runtime.num_heads");
    model->norm_eps = (float)real_entry(binder, "runtime.norm_eps", true, 0.0);
    model->activation = choice_entry(binder, "runtime.activation", "gelu_erf", "gelu_tanh") == 0
                            ? ACTIVATION_GELU_ERF : ACTIVATION_GELU_TANH;
    *width = choice_entry(binder, "runtime.width", "abs", "softplus") == 0 ? WIDTH_ABS
                                                                          : WIDTH_SOFTPLUS;
    *factor = real_entry(binder, "runtime.width_factor", true, 1.0);
    model->null_logit = (float)real_entry(binder, "runtime.null_logit", false, 0.0);
    model->has_null = cr_container_entry(&model->container, "runtime.null_logit") != NULL;
    model->has_norm = truth_entry(binder, "runtime.final_norm");
}

bool cr_bind_v3(Crystal *model, char *error) {
    if (!cr_container_open(&model->container, model->file.data, model->file.bytes, error))
        return false;
    Binder binder = {model, error, true, 0};
    Width width = WIDTH_ABS;
    double factor = 1.0;
    read_architecture(&binder, &width, &factor);
    const bool has_bias = truth_entry(&binder, "runtime.head_bias");
    const size_t layers = model->num_layers;
    model->num_layers = 0;  /* none are there yet */
    if (!binder.good)
        return false;
    model->num_layers = layers;
    if (!cr_check_sizes(model, error) || layers > model->container.tensor_count) {
        model->num_layers = 0;
        return layers > model->container.tensor_count
                   ? cr_fail(error, "metadata runtime.num_layers: more than there are tensors")
                   : false;
    }
    model->embedding =
        matrix(&binder, false, "embedding.weight", model->vocab_size, model->d_model);
    model->position_embedding = matrix(
        &binder, false, "position_embedding.weight", model->context_length, model->d_model);
    model->blocks = cr_own(model, layers, sizeof(Block), error);
    if (model->blocks == NULL)
        return false;
    for (; binder.good && binder.layer < layers; binder.layer++)
        bind_block(&binder, &model->blocks[binder.layer], width, factor);
    if (model->has_norm)
        model->norm = norm(&binder, false, "norm");
    model->head = matrix(&binder, false, "head.weight", model->vocab_size, model->d_model);
    if (has_bias)
        model->head_bias = vector(&binder, false, "head.bias", model->vocab_size);
    return binder.good &&
           cr_tokenizer_open(&model->tokenizer, &model->container, model->vocab_size, error);
}
