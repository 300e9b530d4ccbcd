/* A model bound to the bytes it lies in, whichever version of the file these are. */
#ifndef CRYSTAL_MODEL_H
#define CRYSTAL_MODEL_H

#include "container.h"
#include "crystal.h"
#include "file.h"
#include "kernels.h"
#include "scheme.h"
#include "tokenizer.h"

typedef struct {
    const float *weight;
    const float *bias;
} Norm;

typedef struct {
    size_t count;
    Matrix positions;
    Matrix values;
    const float *log_mass;
    const float *inverse_tau;   /* 1 / (tau scale) */
    const float *squared;       /* |position|^2 */
} Field;

typedef struct {
    bool attends;
    Norm attention_norm;
    Norm field_norm;
    Norm mlp_norm;
    Matrix query, key, value, out;
    const float *query_bias, *key_bias, *value_bias, *out_bias;
    Field field;
    Matrix up, down;
    const float *up_bias, *down_bias;
} Block;

typedef enum { WIDTH_ABS, WIDTH_SOFTPLUS } Width;

struct Crystal {
    FileBytes file;
    Container container;        /* of version 3 */
    int version;
    bool published;             /* with the published runtime's errors */
    size_t vocab_size, context_length, d_model, d_mlp, num_layers, num_heads;
    float norm_eps;
    Activation activation;
    bool has_null;
    float null_logit;
    Matrix embedding;
    Matrix position_embedding;
    Block *blocks;
    bool has_norm;
    Norm norm;
    Matrix head;
    const float *head_bias;     /* NULL: none */
    Tokenizer tokenizer;
    const Kernels *kernels;
    void **owned;               /* memory that goes with the model */
    size_t owned_count;
};

bool cr_bind_v3(Crystal *model, char *error);

bool cr_bind_v2(Crystal *model, char *error);

bool cr_bind_v1(Crystal *model, char *error);

/* Zeros that go with the model; NULL, and an error, where there is no memory. */
void *cr_own(Crystal *model, size_t count, size_t size, char *error);

/* Bounds that every version obeys, so that sizes below never overflow. */
bool cr_check_sizes(const Crystal *model, char *error);

/* All values of a matrix, one row after another, in the file itself where that is possible. */
const float *cr_floats(Crystal *model, const Matrix *matrix, char *error);

/* What the field derives from its tensors; `width` and `scale` have a value for each neuron. */
bool cr_prepare_field(
    Crystal *model, Field *field, const float *width, const float *scale, const float *log_mass,
    Width kind, double factor, char *error);

#endif
