/* What versions 1 and 2 have in common: sections without names, one after another. */
#ifndef CRYSTAL_OLD_LAYOUT_H
#define CRYSTAL_OLD_LAYOUT_H

#include "bytes.h"
#include "model.h"

#define OLD_HEADER_BYTES 64
#define FLAG_PRUNED 0x0004u
#define FLAG_F32 0x0008u
#define FLAG_INT16 0x0010u
#define FLAG_MIXED 0x0020u
#define FLAG_MIXED8 0x0040u
#define FLAG_CAUSAL 0x0080u

/* Where the next section begins; after a failure nothing is taken any more. */
typedef struct {
    Crystal *model;
    Cursor cursor;
    char *error;
    bool good;
} OldReader;

/* Sizes and constants that the header of either version holds or implies. */
bool cr_old_header(OldReader *reader, Crystal *model, unsigned known_flags, char *error);

/* The offset of a section in the header must be where the reader is. */
void cr_old_section(OldReader *reader, size_t header_offset, const char *name);

const uint8_t *cr_old_take(OldReader *reader, size_t count, size_t size);

/* Floats, copied where they are not aligned. */
const float *cr_old_floats(OldReader *reader, size_t count);

/* A matrix of floats, copied where it is not aligned. */
Matrix cr_old_matrix(OldReader *reader, size_t rows, size_t cols);

void cr_old_norm(OldReader *reader, Norm *norm);

/* W1, b1, W2, b2. */
void cr_old_mlp(OldReader *reader, Block *block);

/* The field with the published guard and widths. */
void cr_old_field(OldReader *reader, Field *field, const float *temperatures);

/* Nothing may follow. */
void cr_old_end(OldReader *reader);

#endif
