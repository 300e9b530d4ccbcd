/* The neuron field: a mean of values, weighed by distance. */
#include <math.h>

#include "bytes.h"
#include "layers.h"

#define LEFT_OUT 1e-9f      /* of the mass, at most */

/* From logits to the neurons that count and their shares; returns how many there are. */
static size_t shares(
    Workspace *work, const Field *field, float *logits, float most) {
    const Crystal *model = work->model;
    const size_t neurons = field->count;
    if (model->has_null && model->null_logit > most)
        most = model->null_logit;
    float total = work->kernels->exponentials(logits, neurons, most, 1.0f);
    /* Those below 1 / neurons of what may be left out can all be left out. */
    const float least = total * (LEFT_OUT / (float)neurons);
    if (model->has_null)
        total += expf(model->null_logit - most);
    const float factor = 1.0f / total;
    size_t count = 0;
    for (size_t n = 0; n < neurons; n++) {
        work->index[count] = (uint32_t)n;
        work->weights[count] = logits[n] * factor;
        count += logits[n] >= least;
    }
    return count;
}

void cr_field(Workspace *work, const Field *field, size_t count) {
    const size_t width = work->model->d_model;
    cr_linear(
        work, &field->positions, NULL, work->normed, work->stride, count, work->dots,
        work->field_stride);
    memset(work->mixed, 0, count * work->stride * sizeof(float));
    for (size_t i = 0; i < count; i++) {
        const float *x = work->normed + i * work->stride;
        float *logits = work->dots + i * work->field_stride, squared;
        work->kernels->multiply(x, 0, 1, width, x, 0, 1, &squared, 0);
        const float most = work->kernels->field_logits(
            logits, field->squared, field->inverse_tau, field->log_mass, squared, field->count);
        const size_t kept = shares(work, field, logits, most);
        cr_weighted_rows(
            work, &field->values, 0, work->index, work->weights, kept,
            work->mixed + i * work->stride);
    }
}
