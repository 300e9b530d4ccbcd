#include "scheme.h"

#include "bytes.h"

bool cr_scheme_known(uint16_t scheme) {
    return scheme <= SCHEME_I64 || (scheme >= SCHEME_INT8_TENSOR && scheme <= SCHEME_INT4_GROUP);
}

const char *cr_scheme_name(Scheme scheme) {
    static const char *const plain[] = {"f32", "f16", "u8", "u16", "u32", "i32", "i64"};
    static const char *const rounded[] = {
        "int8_tensor", "int16_tensor", "int8_row", "int6_group", "int4_group"};
    return scheme <= SCHEME_I64 ? plain[scheme] : rounded[scheme - SCHEME_INT8_TENSOR];
}

bool cr_scheme_is_weight(Scheme scheme) {
    return scheme <= SCHEME_F16 || scheme >= SCHEME_INT8_TENSOR;
}

bool cr_scheme_is_grouped(Scheme scheme) {
    return scheme == SCHEME_INT6_GROUP || scheme == SCHEME_INT4_GROUP;
}

static size_t groups_of(size_t cols) {
    return cols / GROUP + (cols % GROUP != 0);
}

/* Of a row; false on overflow. */
static bool row_size(Scheme scheme, size_t cols, size_t *bytes) {
    switch (scheme) {
    case SCHEME_F32:
    case SCHEME_U32:
    case SCHEME_I32:
        return cr_multiply(cols, 4, bytes);
    case SCHEME_I64:
        return cr_multiply(cols, 8, bytes);
    case SCHEME_F16:
    case SCHEME_U16:
    case SCHEME_INT16_TENSOR:
        return cr_multiply(cols, 2, bytes);
    case SCHEME_U8:
    case SCHEME_INT8_TENSOR:
    case SCHEME_INT8_ROW:
        *bytes = cols;
        return true;
    case SCHEME_INT6_GROUP:
        return cr_multiply(groups_of(cols), INT6_GROUP_BYTES, bytes);
    case SCHEME_INT4_GROUP:
        return cr_multiply(groups_of(cols), INT4_GROUP_BYTES, bytes);
    }
    return false;
}

bool cr_scheme_bytes(Scheme scheme, size_t rows, size_t cols, size_t *values, size_t *scales) {
    size_t row;
    if (!row_size(scheme, cols, &row) || !cr_multiply(rows, row, values))
        return false;
    *scales = 0;
    if (scheme == SCHEME_INT8_TENSOR || scheme == SCHEME_INT16_TENSOR)
        *scales = 2 * sizeof(float);
    else if (scheme == SCHEME_INT8_ROW)
        return cr_multiply(rows, sizeof(float), scales);
    else if (cr_scheme_is_grouped(scheme))
        return cr_multiply(rows, groups_of(cols), &row) && cr_multiply(row, 2, scales);
    return true;
}

Matrix cr_matrix(
    Scheme scheme, size_t rows, size_t cols, const uint8_t *values, const uint8_t *scales) {
    Matrix matrix = {scheme, rows, cols, 0, values, scales, 1.0f, 0.0f};
    row_size(scheme, cols, &matrix.row_bytes);
    if (scheme == SCHEME_INT8_TENSOR || scheme == SCHEME_INT16_TENSOR) {
        matrix.scale = cr_f32(scales);
        matrix.offset = cr_f32(scales + sizeof(float));
        matrix.scales = NULL;
    }
    return matrix;
}

Matrix cr_matrix_rows(const Matrix *matrix, size_t first, size_t count) {
    Matrix part = *matrix;
    part.rows = count;
    part.values += first * matrix->row_bytes;
    if (matrix->scheme == SCHEME_INT8_ROW)
        part.scales += first * sizeof(float);
    else if (cr_scheme_is_grouped(matrix->scheme))
        part.scales += first * groups_of(matrix->cols) * 2;
    return part;
}

float cr_half_to_float(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 0x1fu, fraction = half & 0x3ffu;
    uint32_t bits;
    float value;
    if (exponent == 0) {  /* zero and numbers below the normal ones: a multiple of 2^-24 */
        value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    bits = exponent == 31 ? sign | 0x7f800000u | fraction << 13
                          : sign | (exponent + 112) << 23 | fraction << 13;
    memcpy(&value, &bits, sizeof value);
    return value;
}
