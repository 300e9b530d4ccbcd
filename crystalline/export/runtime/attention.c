/* Causal attention: of many positions over stored keys and values, or of the last one alone. */
#include <math.h>

#include "bytes.h"
#include "layers.h"

void cr_keys_and_values(
    const Workspace *work, const Block *block, const float *normed, size_t count, float *keys,
    float *values) {
    cr_linear(
        work, &block->key, block->key_bias, normed, work->stride, count, keys, work->stride);
    cr_linear(
        work, &block->value, block->value_bias, normed, work->stride, count, values,
        work->stride);
}

/* From scores to weights that add up to 1. */
static void softmax(const Kernels *kernels, float *scores, size_t count, float scale) {
    float most = scores[0];
    for (size_t i = 1; i < count; i++)
        most = scores[i] > most ? scores[i] : most;
    const float total = kernels->exponentials(scores, count, most, scale);
    for (size_t i = 0; i < count; i++)
        scores[i] /= total;
}

static float scale_of(const Crystal *model) {
    return 1.0f / sqrtf((float)(model->d_model / model->num_heads));
}

void cr_attend(
    Workspace *work, const Block *block, const float *keys, const float *values, size_t first,
    size_t count, float *stream) {
    const Crystal *model = work->model;
    const Kernels *kernels = work->kernels;
    const size_t stride = work->stride, width = model->d_model / model->num_heads;
    cr_linear(
        work, &block->query, block->query_bias, work->normed, stride, count, work->query, stride);
    memset(work->mixed, 0, count * stride * sizeof(float));
    for (size_t head = 0; head < model->num_heads; head++) {
        const size_t start = head * width;
        kernels->multiply(
            keys + start, stride, first + count, width, work->query + start, stride, count,
            work->dots, work->field_stride);
        for (size_t i = 0; i < count; i++) {
            float *scores = work->dots + i * work->field_stride;
            const size_t seen = first + i + 1;
            softmax(kernels, scores, seen, scale_of(model));
            kernels->sum(
                values + start, stride, NULL, scores, seen, width,
                work->mixed + i * stride + start);
        }
    }
    cr_linear(
        work, &block->out, block->out_bias, work->mixed, stride, count, work->query, stride);
    kernels->add(work->query, count * stride, stream);
}

size_t cr_attend_last_room(const Crystal *model, size_t stride) {
    return model->num_heads * (2 * stride + model->context_length);
}

void cr_attend_last(
    Workspace *work, const Block *block, const float *normed, size_t length, float *scratch,
    float *stream) {
    const Crystal *model = work->model;
    const Kernels *kernels = work->kernels;
    const size_t stride = work->stride, heads = model->num_heads, width = model->d_model / heads;
    /* A score is q . (K x + b), which is (K^T q) . x but for a term that all places share; and the
     * mean of V x + b is V (mean of x) + b. So each head needs one vector for its scores and one
     * mean, where keys and values would take two products with a matrix for every place. */
    float *wanted = scratch, *means = wanted + heads * stride, *scores = means + heads * stride;
    memset(scratch, 0, 2 * heads * stride * sizeof(float));
    cr_linear(
        work, &block->query, block->query_bias, normed + (length - 1) * stride, stride, 1,
        work->query, stride);
    for (size_t head = 0; head < heads; head++)
        cr_weighted_rows(
            work, &block->key, head * width, NULL, work->query + head * width, width,
            wanted + head * stride);
    kernels->multiply(
        normed, stride, length, model->d_model, wanted, stride, heads, scores, length);
    for (size_t head = 0; head < heads; head++) {
        softmax(kernels, scores + head * length, length, scale_of(model));
        kernels->sum(
            normed, stride, NULL, scores + head * length, length, model->d_model,
            means + head * stride);
        kernels->dot(
            &block->value, head * width, width, means + head * stride,
            work->mixed + head * width);
    }
    kernels->add(block->value_bias, model->d_model, work->mixed);
    cr_linear(work, &block->out, block->out_bias, work->mixed, stride, 1, work->query, stride);
    kernels->add(work->query, model->d_model, stream);
}
