/* How the values of a tensor are stored (docs/crystal_format.md). */
#ifndef CRYSTAL_SCHEME_H
#define CRYSTAL_SCHEME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    SCHEME_F32 = 0,
    SCHEME_F16 = 1,
    SCHEME_U8 = 2,
    SCHEME_U16 = 3,
    SCHEME_U32 = 4,
    SCHEME_I32 = 5,
    SCHEME_I64 = 6,
    SCHEME_INT8_TENSOR = 16,
    SCHEME_INT16_TENSOR = 17,
    SCHEME_INT8_ROW = 18,
    SCHEME_INT6_GROUP = 19,
    SCHEME_INT4_GROUP = 20
} Scheme;

#define GROUP 32                /* neighbours that share a scale */
#define INT6_GROUP_BYTES 24
#define INT4_GROUP_BYTES 16

bool cr_scheme_known(uint16_t scheme);

const char *cr_scheme_name(Scheme scheme);

/* Whether the values are numbers that a weight can consist of. */
bool cr_scheme_is_weight(Scheme scheme);

bool cr_scheme_is_grouped(Scheme scheme);

/* Bytes that values and scales take; false where that does not fit into a size. */
bool cr_scheme_bytes(Scheme scheme, size_t rows, size_t cols, size_t *values, size_t *scales);

/* Rows of weights where they lie in the file. */
typedef struct {
    Scheme scheme;
    size_t rows;
    size_t cols;
    size_t row_bytes;
    const uint8_t *values;
    const uint8_t *scales;      /* f32 a row or f16 a group; NULL for the other schemes */
    float scale;                /* of a whole tensor */
    float offset;
} Matrix;

/* `scales` points to what the scheme says; both addresses are multiples of an element's size. */
Matrix cr_matrix(
    Scheme scheme, size_t rows, size_t cols, const uint8_t *values, const uint8_t *scales);

/* Some neighbouring rows of a matrix. */
Matrix cr_matrix_rows(const Matrix *matrix, size_t first, size_t count);

float cr_half_to_float(uint16_t half);

#endif
