/* Version 2: the causal model, or the blind one, in fp32; the head perhaps in int8. */
#include "failure.h"
#include "old_layout.h"

static void bind_attention(OldReader *reader, Block *block) {
    const size_t width = reader->model->d_model;
    Matrix *const maps[] = {&block->query, &block->key, &block->value, &block->out};
    const float **biases[] = {
        &block->query_bias, &block->key_bias, &block->value_bias, &block->out_bias};
    for (size_t i = 0; i < 4; i++) {
        *maps[i] = cr_old_matrix(reader, width, width);
        *biases[i] = cr_old_floats(reader, width);
    }
}

/* Scale and offset of W and of b, then both in int8. */
static void bind_int8_head(OldReader *reader) {
    Crystal *model = reader->model;
    const uint8_t *scales = cr_old_take(reader, 4, sizeof(float));
    const uint8_t *weight = cr_old_take(reader, model->vocab_size, model->d_model);
    const uint8_t *bias = cr_old_take(reader, model->vocab_size, 1);
    if (bias == NULL)
        return;
    model->head =
        cr_matrix(SCHEME_INT8_TENSOR, model->vocab_size, model->d_model, weight, scales);
    const Matrix row =
        cr_matrix(SCHEME_INT8_TENSOR, 1, model->vocab_size, bias, scales + 2 * sizeof(float));
    model->head_bias = cr_floats(model, &row, reader->error);
    reader->good = model->head_bias != NULL;
}

static bool check_header(const Crystal *model, char *error) {
    const uint8_t *data = model->file.data;
    const unsigned flags = cr_u16(data + 6);
    const bool causal = (flags & FLAG_CAUSAL) != 0;
    if ((flags & FLAG_MIXED8) && (flags & FLAG_F32))
        return cr_fail(error, "its flags say both fp32 and int8 of the head: export it anew");
    if (causal != (model->num_heads > 0) || cr_u16(data + 26) != (causal ? 3 : 2))
        return cr_fail(error, "flags, heads and norms do not agree on whether it is causal");
    if (cr_u32(data + 60) != model->file.bytes)
        return cr_fail(
            error, "%zu bytes, where its header says %lu: cut off or damaged", model->file.bytes,
            (unsigned long)cr_u32(data + 60));
    return true;
}

bool cr_bind_v2(Crystal *model, char *error) {
    OldReader reader;
    if (model->file.bytes >= OLD_HEADER_BYTES)
        model->num_heads = cr_u16(model->file.data + 24);
    if (!cr_old_header(
            &reader, model, FLAG_PRUNED | FLAG_F32 | FLAG_MIXED8 | FLAG_CAUSAL, error) ||
        !check_header(model, error))
        return false;
    Block *block = model->blocks;
    const size_t neurons = block->field.count;
    block->attends = model->num_heads > 0;
    cr_old_section(&reader, 32, "embedding");
    model->embedding = cr_old_matrix(&reader, model->vocab_size, model->d_model);
    cr_old_section(&reader, 36, "positions");
    model->position_embedding = cr_old_matrix(&reader, model->context_length, model->d_model);
    cr_old_section(&reader, 40, "attention");
    if (block->attends)
        bind_attention(&reader, block);
    cr_old_section(&reader, 44, "field");
    block->field.positions = cr_old_matrix(&reader, neurons, model->d_model);
    block->field.values = cr_old_matrix(&reader, neurons, model->d_model);
    cr_old_field(&reader, &block->field, cr_old_floats(&reader, neurons));
    cr_old_section(&reader, 48, "MLP");
    cr_old_mlp(&reader, block);
    cr_old_section(&reader, 52, "head");
    if (cr_u16(model->file.data + 6) & FLAG_MIXED8) {
        bind_int8_head(&reader);
    } else {
        model->head = cr_old_matrix(&reader, model->vocab_size, model->d_model);
        model->head_bias = cr_old_floats(&reader, model->vocab_size);
    }
    cr_old_section(&reader, 56, "norms");
    if (block->attends)
        cr_old_norm(&reader, &block->attention_norm);
    cr_old_norm(&reader, &block->field_norm);
    cr_old_norm(&reader, &block->mlp_norm);
    cr_old_end(&reader);
    return reader.good;
}
