/* Text to ids and back, from the tables of the file. */
#ifndef CRYSTAL_TOKENIZER_H
#define CRYSTAL_TOKENIZER_H

#include "container.h"

typedef enum { TOKENIZER_NONE, TOKENIZER_BYTES, TOKENIZER_BPE } TokenizerKind;

#define NO_ROW UINT32_MAX

typedef struct {
    TokenizerKind kind;
    int32_t eot_id;             /* -1: none */
    size_t vocab_size;
    size_t rows;                /* of the table */
    const uint32_t *offsets;    /* where the bytes of a row begin and end */
    const uint8_t *bytes;
    const int32_t *ids;         /* of a row; -1: none */
    const uint8_t *merges;      /* left, right, result, of 2 or 4 bytes each */
    size_t merge_bytes;         /* 2 or 4 */
    size_t merge_count;
    uint32_t single[256];       /* row of each byte */
    uint32_t *row_of_id;
    uint32_t *merge_of_row;     /* which a row results from */
    uint32_t *slots;            /* hash table of merges by their pair; 0: free, else index + 1 */
    size_t slot_count;          /* a power of two */
} Tokenizer;

/* Checks every table. A file without one leaves TOKENIZER_NONE. */
bool cr_tokenizer_open(
    Tokenizer *tokenizer, const Container *container, size_t vocab_size, char *error);

void cr_tokenizer_close(Tokenizer *tokenizer);

/* Left, right or result (0, 1, 2) of a merge. */
uint32_t cr_merge_part(const Tokenizer *tokenizer, size_t merge, int part);

/* The merge of two neighbouring rows, or NO_ROW: the lower the earlier. */
uint32_t cr_merge_of(const Tokenizer *tokenizer, uint32_t left, uint32_t right);

/* Bytes of the piece that begins a text, after the pattern of GPT-2; at least 1. */
size_t cr_piece(const uint8_t *text, size_t bytes);

/* Replaces the rows of a piece by those that merging leaves; returns how many. Scratch has room
 * for 6 numbers a row. */
size_t cr_merge_all(
    const Tokenizer *tokenizer, uint32_t *rows, size_t count, uint32_t *scratch);

#endif
