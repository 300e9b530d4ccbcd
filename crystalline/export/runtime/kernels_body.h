/* The loops over vectors, the same for every instruction set: simd_*.h says what a vector is. */

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 4")
#else
#define INLINE static inline
#define UNROLL
#endif

#define MOST_TALL 4     /* vectors and rows of a tile of `multiply`: twelve sums stay in registers */
#define MOST_WIDE 3
#define SUM_VECTORS 8   /* of y in `sum` that stay in registers */

#define ONE_FLOAT(at_) ((float)*(at_))
#define ONE_HALF(at_) (half(*(at_)))

/* out[i] = rows[i] . x for rows of plain elements, four rows at a time. */
#define DEFINE_DOT(NAME, TYPE, LOAD, ONE)                                                        \
    static void NAME(const TYPE *rows, size_t count, size_t cols, const float *x, float *out) {  \
        const size_t whole = cols - cols % WIDTH;                                                \
        size_t row = 0;                                                                          \
        for (; row + 4 <= count; row += 4) {                                                     \
            const TYPE *a = rows + row * cols, *b = a + cols, *c = b + cols, *d = c + cols;      \
            Vector sa = v_set(0), sb = sa, sc = sa, sd = sa;                                     \
            for (size_t col = 0; col < whole; col += WIDTH) {                                    \
                const Vector at = v_load(x + col);                                               \
                sa = v_fma(LOAD(a + col), at, sa);                                               \
                sb = v_fma(LOAD(b + col), at, sb);                                               \
                sc = v_fma(LOAD(c + col), at, sc);                                               \
                sd = v_fma(LOAD(d + col), at, sd);                                               \
            }                                                                                    \
            v_totals(sa, sb, sc, sd, out + row);                                                 \
            for (size_t col = whole; col < cols; col++) {                                        \
                out[row] += ONE(a + col) * x[col];                                               \
                out[row + 1] += ONE(b + col) * x[col];                                           \
                out[row + 2] += ONE(c + col) * x[col];                                           \
                out[row + 3] += ONE(d + col) * x[col];                                           \
            }                                                                                    \
        }                                                                                        \
        for (; row < count; row++) {                                                             \
            const TYPE *a = rows + row * cols;                                                   \
            Vector sum = v_set(0);                                                               \
            for (size_t col = 0; col < whole; col += WIDTH)                                      \
                sum = v_fma(LOAD(a + col), v_load(x + col), sum);                                \
            out[row] = v_total(sum);                                                             \
            for (size_t col = whole; col < cols; col++)                                          \
                out[row] += ONE(a + col) * x[col];                                               \
        }                                                                                        \
    }

DEFINE_DOT(dot_f32, float, v_load, ONE_FLOAT)
DEFINE_DOT(dot_f16, uint16_t, v_from_f16, ONE_HALF)
DEFINE_DOT(dot_i8, int8_t, v_from_i8, ONE_FLOAT)
DEFINE_DOT(dot_i16, int16_t, v_from_i16, ONE_FLOAT)

/* out = values scale + offset for a row of plain elements. */
#define DEFINE_CONVERT(NAME, TYPE, LOAD, ONE)                                                    \
    static void NAME(const TYPE *row, size_t cols, float scale, float offset, float *out) {      \
        const size_t whole = cols - cols % WIDTH;                                                \
        const Vector by = v_set(scale), from = v_set(offset);                                    \
        for (size_t col = 0; col < whole; col += WIDTH)                                          \
            v_store(out + col, v_fma(LOAD(row + col), by, from));                                \
        for (size_t col = whole; col < cols; col++)                                              \
            out[col] = ONE(row + col) * scale + offset;                                          \
    }

DEFINE_CONVERT(convert_f16, uint16_t, v_from_f16, ONE_HALF)
DEFINE_CONVERT(convert_i8, int8_t, v_from_i8, ONE_FLOAT)
DEFINE_CONVERT(convert_i16, int16_t, v_from_i16, ONE_FLOAT)

INLINE Group unpack(Scheme scheme, const uint8_t *row, size_t group) {
    return scheme == SCHEME_INT4_GROUP ? unpack_4(row + group * INT4_GROUP_BYTES)
                                       : unpack_6(row + group * INT6_GROUP_BYTES);
}

/* `tall` rows of groups; the scheme and the number are constants where this is used. */
INLINE void dot_group_rows(
    Scheme scheme, const Matrix *matrix, size_t first, const float *x, float *out,
    const size_t tall) {
    const size_t groups = (matrix->cols + GROUP - 1) / GROUP;
    const uint8_t *row = matrix->values + first * matrix->row_bytes;
    const uint16_t *scales = (const uint16_t *)matrix->scales + first * groups;
    Vector sums[4];
    UNROLL
    for (size_t i = 0; i < 4; i++)
        sums[i] = v_set(0);
    for (size_t group = 0; group < groups; group++) {
        const float *at = x + group * GROUP;
        UNROLL
        for (size_t i = 0; i < tall; i++) {
            const Group values = unpack(scheme, row + i * matrix->row_bytes, group);
            Vector part = v_mul(v_from_group(values, 0), v_load(at));
            _Pragma("GCC unroll 32")
            for (size_t k = 1; k < GROUP / WIDTH; k++)
                part = v_fma(v_from_group(values, k), v_load(at + k * WIDTH), part);
            sums[i] = v_fma(v_set(half(scales[i * groups + group])), part, sums[i]);
        }
    }
    if (tall == 1)
        *out = v_total(sums[0]);
    else
        v_totals(sums[0], sums[1], sums[2], sums[3], out);
}

INLINE void dot_groups(
    Scheme scheme, const Matrix *matrix, size_t first, size_t count, const float *x, float *out) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        dot_group_rows(scheme, matrix, first + i, x, out + i, 4);
    for (; i < count; i++)
        dot_group_rows(scheme, matrix, first + i, x, out + i, 1);
}

static void decode_groups(const Matrix *matrix, size_t index, float *out) {
    const size_t groups = (matrix->cols + GROUP - 1) / GROUP;
    const uint8_t *row = matrix->values + index * matrix->row_bytes;
    const uint16_t *scales = (const uint16_t *)matrix->scales + index * groups;
    for (size_t group = 0; group < groups; group++) {
        const Vector scale = v_set(half(scales[group]));
        const Group values = unpack(matrix->scheme, row, group);
        const size_t start = group * GROUP, left = matrix->cols - start;
        float whole[GROUP], *to = left < GROUP ? whole : out + start;
        _Pragma("GCC unroll 32")
        for (size_t k = 0; k < GROUP / WIDTH; k++)
            v_store(to + k * WIDTH, v_mul(v_from_group(values, k), scale));
        if (left < GROUP)
            memcpy(out + start, whole, left * sizeof(float));
    }
}

static void decode(const Matrix *matrix, size_t row, float *out) {
    const uint8_t *at = matrix->values + row * matrix->row_bytes;
    const size_t cols = matrix->cols;
    switch (matrix->scheme) {
    case SCHEME_F32:
        memcpy(out, at, cols * sizeof(float));
        return;
    case SCHEME_F16:
        convert_f16((const uint16_t *)at, cols, 1, 0, out);
        return;
    case SCHEME_INT8_TENSOR:
        convert_i8((const int8_t *)at, cols, matrix->scale, matrix->offset, out);
        return;
    case SCHEME_INT16_TENSOR:
        convert_i16((const int16_t *)at, cols, matrix->scale, matrix->offset, out);
        return;
    case SCHEME_INT8_ROW:
        convert_i8((const int8_t *)at, cols, ((const float *)matrix->scales)[row], 0, out);
        return;
    default:
        decode_groups(matrix, row, out);
    }
}

/* From whole numbers to what a tensor with one scale and offset means. */
static void scale_all(const Matrix *matrix, const float *x, size_t count, float *out) {
    double total = 0;
    for (size_t col = 0; col < matrix->cols; col++)
        total += (double)x[col];
    const float shift = (float)((double)matrix->offset * total);
    for (size_t i = 0; i < count; i++)
        out[i] = out[i] * matrix->scale + shift;
}

static void dot(const Matrix *matrix, size_t first, size_t count, const float *x, float *out) {
    const uint8_t *at = matrix->values + first * matrix->row_bytes;
    const size_t cols = matrix->cols;
    switch (matrix->scheme) {
    case SCHEME_F32:
        dot_f32((const float *)at, count, cols, x, out);
        return;
    case SCHEME_F16:
        dot_f16((const uint16_t *)at, count, cols, x, out);
        return;
    case SCHEME_INT8_TENSOR:
        dot_i8((const int8_t *)at, count, cols, x, out);
        scale_all(matrix, x, count, out);
        return;
    case SCHEME_INT16_TENSOR:
        dot_i16((const int16_t *)at, count, cols, x, out);
        scale_all(matrix, x, count, out);
        return;
    case SCHEME_INT8_ROW:
        dot_i8((const int8_t *)at, count, cols, x, out);
        for (size_t i = 0; i < count; i++)
            out[i] *= ((const float *)matrix->scales)[first + i];
        return;
    case SCHEME_INT4_GROUP:
        dot_groups(SCHEME_INT4_GROUP, matrix, first, count, x, out);
        return;
    default:
        dot_groups(SCHEME_INT6_GROUP, matrix, first, count, x, out);
    }
}

/* `tall` vectors times `wide` rows; both are constants where this is used. */
INLINE void tile(
    const float *rows, size_t row_stride, size_t cols, const float *x, size_t x_stride, float *out,
    size_t out_stride, const size_t tall, const size_t wide) {
    const size_t whole = cols - cols % WIDTH;
    Vector sums[MOST_TALL][4];
    UNROLL
    for (size_t i = 0; i < MOST_TALL; i++)
        UNROLL
        for (size_t r = 0; r < 4; r++)
            sums[i][r] = v_set(0);
    for (size_t col = 0; col < whole; col += WIDTH) {
        Vector row[MOST_WIDE];
        UNROLL
        for (size_t r = 0; r < wide; r++)
            row[r] = v_load(rows + r * row_stride + col);
        UNROLL
        for (size_t i = 0; i < tall; i++) {
            const Vector at = v_load(x + i * x_stride + col);
            UNROLL
            for (size_t r = 0; r < wide; r++)
                sums[i][r] = v_fma(row[r], at, sums[i][r]);
        }
    }
    UNROLL
    for (size_t i = 0; i < tall; i++) {
        float four[4];
        v_totals(sums[i][0], sums[i][1], sums[i][2], sums[i][3], four);
        for (size_t r = 0; r < wide; r++) {
            for (size_t col = whole; col < cols; col++)
                four[r] += rows[r * row_stride + col] * x[i * x_stride + col];
            out[i * out_stride + r] = four[r];
        }
    }
}

static void multiply(
    const float *rows, size_t row_stride, size_t row_count, size_t cols, const float *x,
    size_t x_stride, size_t x_count, float *out, size_t out_stride) {
    for (size_t r = 0; r < row_count;) {
        const bool wide = row_count - r >= MOST_WIDE;
        const float *row = rows + r * row_stride;
        size_t i = 0;
        for (; i + MOST_TALL <= x_count; i += MOST_TALL) {
            const float *at = x + i * x_stride;
            float *to = out + i * out_stride + r;
            if (wide)
                tile(row, row_stride, cols, at, x_stride, to, out_stride, MOST_TALL, MOST_WIDE);
            else
                tile(row, row_stride, cols, at, x_stride, to, out_stride, MOST_TALL, 1);
        }
        for (; i < x_count; i++) {
            const float *at = x + i * x_stride;
            float *to = out + i * out_stride + r;
            if (wide)
                tile(row, row_stride, cols, at, x_stride, to, out_stride, 1, MOST_WIDE);
            else
                tile(row, row_stride, cols, at, x_stride, to, out_stride, 1, 1);
        }
        r += wide ? MOST_WIDE : 1;
    }
}

/* `vectors` neighbouring vectors of y, which stay in registers while all rows pass. */
INLINE void sum_columns(
    const float *rows, size_t stride, const uint32_t *index, const float *weights, size_t count,
    float *y, const size_t vectors) {
    Vector sums[SUM_VECTORS];
    _Pragma("GCC unroll 8")
    for (size_t k = 0; k < vectors; k++)
        sums[k] = v_load(y + k * WIDTH);
    for (size_t i = 0; i < count; i++) {
        const float *row = rows + (index == NULL ? i : index[i]) * stride;
        const Vector weight = v_set(weights[i]);
        _Pragma("GCC unroll 8")
        for (size_t k = 0; k < vectors; k++)
            sums[k] = v_fma(v_load(row + k * WIDTH), weight, sums[k]);
    }
    _Pragma("GCC unroll 8")
    for (size_t k = 0; k < vectors; k++)
        v_store(y + k * WIDTH, sums[k]);
}

static void sum(
    const float *rows, size_t stride, const uint32_t *index, const float *weights, size_t count,
    size_t cols, float *y) {
    size_t col = 0;
    for (; col + SUM_VECTORS * WIDTH <= cols; col += SUM_VECTORS * WIDTH)
        sum_columns(rows + col, stride, index, weights, count, y + col, SUM_VECTORS);
    for (; col + WIDTH <= cols; col += WIDTH)
        sum_columns(rows + col, stride, index, weights, count, y + col, 1);
    for (; col < cols; col++)
        for (size_t i = 0; i < count; i++)
            y[col] += weights[i] * rows[(index == NULL ? i : index[i]) * stride + col];
}

static void add(const float *x, size_t count, float *y) {
    const size_t whole = count - count % WIDTH;
    for (size_t i = 0; i < whole; i += WIDTH)
        v_store(y + i, v_add(v_load(y + i), v_load(x + i)));
    for (size_t i = whole; i < count; i++)
        y[i] += x[i];
}

static void norm(
    const float *x, const float *weight, const float *bias, float eps, size_t cols, float *out) {
    const size_t whole = cols - cols % WIDTH;
    Vector total = v_set(0), squares = v_set(0);
    for (size_t col = 0; col < whole; col += WIDTH)
        total = v_add(total, v_load(x + col));
    float mean = v_total(total);
    for (size_t col = whole; col < cols; col++)
        mean += x[col];
    mean /= (float)cols;
    const Vector middle = v_set(mean);
    for (size_t col = 0; col < whole; col += WIDTH) {
        const Vector off = v_sub(v_load(x + col), middle);
        squares = v_fma(off, off, squares);
    }
    float variance = v_total(squares);
    for (size_t col = whole; col < cols; col++)
        variance += (x[col] - mean) * (x[col] - mean);
    const float factor = 1.0f / sqrtf(variance / (float)cols + eps);
    const Vector by = v_set(factor);
    for (size_t col = 0; col < whole; col += WIDTH) {
        const Vector normed = v_mul(v_sub(v_load(x + col), middle), by);
        v_store(out + col, v_fma(normed, v_load(weight + col), v_load(bias + col)));
    }
    for (size_t col = whole; col < cols; col++)
        out[col] = (x[col] - mean) * factor * weight[col] + bias[col];
}

#include "kernels_functions.h"

const Kernels KERNELS = {
    KERNELS_NAME, decode, dot, multiply, sum, norm, add, field_logits, exponentials, activate,
};
