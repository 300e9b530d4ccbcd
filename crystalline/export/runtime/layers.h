/* The parts of a block, for one position or a few neighbouring ones at a time. */
#ifndef CRYSTAL_LAYERS_H
#define CRYSTAL_LAYERS_H

#include "model.h"

#define CHUNK 16        /* positions at a time where all of a window are computed */
#define PANEL 12        /* rows of a matrix that are decoded at a time */

/* Scratch of one thread; matrices have CHUNK rows. */
typedef struct {
    const Crystal *model;
    const Kernels *kernels;
    size_t stride;          /* from position to position, in floats */
    size_t hidden_stride;   /* likewise within the MLP */
    size_t field_stride;    /* within fields */
    float *normed;
    float *query;
    float *mixed;
    float *hidden;
    float *dots;            /* a number for each neuron; in attention for each place */
    float *panel;
    float *weights;
    uint32_t *index;        /* of the neurons that count */
} Workspace;

bool cr_workspace_open(Workspace *work, const Crystal *model, const Kernels *kernels);

void cr_workspace_close(Workspace *work);

/* out[i] = matrix x[i] + bias for `count` positions. */
void cr_linear(
    const Workspace *work, const Matrix *matrix, const float *bias, const float *x,
    size_t x_stride, size_t count, float *out, size_t out_stride);

/* y += sum over i of weights[i] matrix[index[i]], or matrix[first + i] without an index. */
void cr_weighted_rows(
    const Workspace *work, const Matrix *matrix, size_t first, const uint32_t *index,
    const float *weights, size_t count, float *y);

/* Embedding of a token at a place of the window. */
void cr_embed(const Workspace *work, int32_t token, size_t place, float *out);

void cr_norm(
    const Workspace *work, const Norm *norm, const float *x, size_t count, float *out);

/* Keys and values of `count` positions whose normed stream is given. */
void cr_keys_and_values(
    const Workspace *work, const Block *block, const float *normed, size_t count, float *keys,
    float *values);

/* Attention of positions `first` on, whose normed stream lies in the workspace, to all before them
 * and themselves; added to the stream. */
void cr_attend(
    Workspace *work, const Block *block, const float *keys, const float *values, size_t first,
    size_t count, float *stream);

/* Attention of the last of `length` positions, from the normed streams of all: no key or value is
 * computed. Added to the stream of that position. */
void cr_attend_last(
    Workspace *work, const Block *block, const float *normed, size_t length, float *scratch,
    float *stream);

/* Floats that `scratch` of `cr_attend_last` has room for. */
size_t cr_attend_last_room(const Crystal *model, size_t stride);

/* What the field says to positions whose normed stream lies in the workspace; written to `mixed`. */
void cr_field(Workspace *work, const Field *field, size_t count);

/* Field, then MLP, each added to the stream. */
void cr_field_and_mlp(Workspace *work, const Block *block, float *stream, size_t count);

#endif
