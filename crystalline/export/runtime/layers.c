#include "layers.h"

#include "bytes.h"

static size_t most_neurons(const Crystal *model) {
    size_t most = 0;
    for (size_t layer = 0; layer < model->num_layers; layer++)
        if (model->blocks[layer].field.count > most)
            most = model->blocks[layer].field.count;
    return most;
}

bool cr_workspace_open(Workspace *work, const Crystal *model, const Kernels *kernels) {
    const size_t neurons = most_neurons(model), length = model->context_length;
    *work = (Workspace){.model = model, .kernels = kernels};
    work->stride = cr_round_up(model->d_model, GROUP);
    work->hidden_stride = cr_round_up(model->d_mlp, GROUP);
    work->field_stride = cr_round_up(neurons > length ? neurons : length, GROUP);
    const size_t widest =
        work->stride > work->hidden_stride ? work->stride : work->hidden_stride;
    work->normed = cr_allocate(CHUNK * work->stride, sizeof(float));
    work->query = cr_allocate(CHUNK * work->stride, sizeof(float));
    work->mixed = cr_allocate(CHUNK * work->stride, sizeof(float));
    work->hidden = cr_allocate(CHUNK * work->hidden_stride, sizeof(float));
    work->dots = cr_allocate(CHUNK * work->field_stride, sizeof(float));
    work->panel = cr_allocate(PANEL * widest, sizeof(float));
    work->weights = cr_allocate(work->field_stride, sizeof(float));
    work->index = cr_allocate(work->field_stride, sizeof(uint32_t));
    return work->normed && work->query && work->mixed && work->hidden && work->dots &&
           work->panel && work->weights && work->index;
}

void cr_workspace_close(Workspace *work) {
    cr_release(work->normed);
    cr_release(work->query);
    cr_release(work->mixed);
    cr_release(work->hidden);
    cr_release(work->dots);
    cr_release(work->panel);
    cr_release(work->weights);
    cr_release(work->index);
}

/* Rows that can be used where they lie. */
static const float *plain(const Matrix *matrix) {
    return matrix->scheme == SCHEME_F32 ? (const float *)matrix->values : NULL;
}

void cr_linear(
    const Workspace *work, const Matrix *matrix, const float *bias, const float *x,
    size_t x_stride, size_t count, float *out, size_t out_stride) {
    const Kernels *kernels = work->kernels;
    const size_t cols = matrix->cols;
    if (count == 1) {
        kernels->dot(matrix, 0, matrix->rows, x, out);
    } else if (plain(matrix) != NULL) {
        kernels->multiply(
            plain(matrix), cols, matrix->rows, cols, x, x_stride, count, out, out_stride);
    } else {
        for (size_t row = 0; row < matrix->rows; row += PANEL) {
            const size_t left = matrix->rows - row, rows = left < PANEL ? left : PANEL;
            for (size_t i = 0; i < rows; i++)
                kernels->decode(matrix, row + i, work->panel + i * cols);
            kernels->multiply(
                work->panel, cols, rows, cols, x, x_stride, count, out + row, out_stride);
        }
    }
    for (size_t i = 0; bias != NULL && i < count; i++)
        kernels->add(bias, matrix->rows, out + i * out_stride);
}

void cr_weighted_rows(
    const Workspace *work, const Matrix *matrix, size_t first, const uint32_t *index,
    const float *weights, size_t count, float *y) {
    const Kernels *kernels = work->kernels;
    const size_t cols = matrix->cols;
    if (plain(matrix) != NULL) {
        kernels->sum(plain(matrix) + first * cols, cols, index, weights, count, cols, y);
        return;
    }
    for (size_t done = 0; done < count; done += PANEL) {
        const size_t left = count - done, rows = left < PANEL ? left : PANEL;
        for (size_t i = 0; i < rows; i++)
            kernels->decode(
                matrix, index == NULL ? first + done + i : index[done + i],
                work->panel + i * cols);
        kernels->sum(work->panel, cols, NULL, weights + done, rows, cols, y);
    }
}

void cr_embed(const Workspace *work, int32_t token, size_t place, float *out) {
    const Crystal *model = work->model;
    work->kernels->decode(&model->position_embedding, place, work->panel);
    work->kernels->decode(&model->embedding, (size_t)token, out);
    work->kernels->add(work->panel, model->d_model, out);
}

void cr_norm(
    const Workspace *work, const Norm *norm, const float *x, size_t count, float *out) {
    const Crystal *model = work->model;
    for (size_t i = 0; i < count; i++)
        work->kernels->norm(
            x + i * work->stride, norm->weight, norm->bias, model->norm_eps, model->d_model,
            out + i * work->stride);
}

static void mlp(Workspace *work, const Block *block, size_t count) {
    const Crystal *model = work->model;
    cr_linear(
        work, &block->up, block->up_bias, work->normed, work->stride, count, work->hidden,
        work->hidden_stride);
    for (size_t i = 0; i < count; i++)
        work->kernels->activate(
            model->activation, work->hidden + i * work->hidden_stride, model->d_mlp);
    cr_linear(
        work, &block->down, block->down_bias, work->hidden, work->hidden_stride, count,
        work->mixed, work->stride);
}

/* The stream before something is added; the published runtime of version 2 lost it to the norm. */
static void residual(Workspace *work, const Norm *norm, float *stream, size_t count) {
    cr_norm(work, norm, stream, count, work->normed);
    if (work->model->published && work->model->version == 2)
        memcpy(stream, work->normed, count * work->stride * sizeof(float));
}

void cr_field_and_mlp(Workspace *work, const Block *block, float *stream, size_t count) {
    residual(work, &block->field_norm, stream, count);
    cr_field(work, &block->field, count);
    work->kernels->add(work->mixed, count * work->stride, stream);
    residual(work, &block->mlp_norm, stream, count);
    mlp(work, block, count);
    work->kernels->add(work->mixed, count * work->stride, stream);
}
