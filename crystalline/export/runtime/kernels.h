/* The inner loops, once for each instruction set; the machine's best is found at run time.
 *
 * Vectors that are multiplied by a matrix have room for a multiple of GROUP floats, zeros behind
 * the last column. */
#ifndef CRYSTAL_KERNELS_H
#define CRYSTAL_KERNELS_H

#include "scheme.h"

/* What is compiled; CRYSTAL_NO_AVX512 and CRYSTAL_NO_AVX2 make a smaller program. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(CRYSTAL_NO_AVX2)
#define CR_HAS_AVX2 1
#endif
#if defined(__x86_64__) && defined(__GNUC__) && !defined(CRYSTAL_NO_AVX512)
#define CR_HAS_AVX512 1
#endif
#if defined(__aarch64__)
#define CR_HAS_NEON 1
#endif

typedef enum { ACTIVATION_GELU_ERF, ACTIVATION_GELU_TANH } Activation;

typedef struct {
    const char *name;

    /* Row of a matrix as floats. */
    void (*decode)(const Matrix *matrix, size_t row, float *out);

    /* out[i] = row (first + i) . x */
    void (*dot)(const Matrix *matrix, size_t first, size_t count, const float *x, float *out);

    /* out[i, r] = rows[r] . x[i], all of them floats: r < row_count, i < x_count. */
    void (*multiply)(
        const float *rows, size_t row_stride, size_t row_count, size_t cols, const float *x,
        size_t x_stride, size_t x_count, float *out, size_t out_stride);

    /* y += sum over i of weights[i] rows[index[i]]; without `index` rows[i]. */
    void (*sum)(
        const float *rows, size_t stride, const uint32_t *index, const float *weights,
        size_t count, size_t cols, float *y);

    /* out = (x - mean) / sqrt(variance + eps) weight + bias */
    void (*norm)(
        const float *x, const float *weight, const float *bias, float eps, size_t cols,
        float *out);

    /* y += x */
    void (*add)(const float *x, size_t count, float *y);

    /* From x . position to the neuron's logit, in place; returns the largest. */
    float (*field_logits)(
        float *dots, const float *squared, const float *inverse_tau, const float *log_mass,
        float x_squared, size_t count);

    /* x = exp((x - most) factor), in place; returns the sum. */
    float (*exponentials)(float *x, size_t count, float most, float factor);

    void (*activate)(Activation activation, float *x, size_t count);
} Kernels;

/* Of that name, NULL if this build or machine does not have it; the best without a name. */
const Kernels *cr_kernels(const char *name);

extern const Kernels cr_kernels_scalar;
extern const Kernels cr_kernels_avx2;
extern const Kernels cr_kernels_avx512;
extern const Kernels cr_kernels_neon;

#endif
