/* Version 3 of the file: what it holds, after everything about it was checked. */
#ifndef CRYSTAL_CONTAINER_H
#define CRYSTAL_CONTAINER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheme.h"

typedef enum { ENTRY_U64, ENTRY_F64, ENTRY_TEXT, ENTRY_TRUTH } EntryType;

/* Text of the file: UTF-8, not closed by a zero. */
typedef struct {
    const char *text;
    size_t bytes;
} Text;

typedef struct {
    Text key;
    EntryType type;
    uint64_t number;    /* u64 and truth values */
    double real;
    Text text;
} Entry;

typedef struct {
    Text name;
    Scheme scheme;
    unsigned rank;
    uint64_t shape[4];
    size_t rows;        /* all axes but the last */
    size_t cols;
    uint32_t crc;
    const uint8_t *values;
    const uint8_t *scales;
    size_t value_bytes;
    size_t scale_bytes;
} Tensor;

typedef struct {
    const uint8_t *data;
    size_t bytes;
    Entry *entries;
    size_t entry_count;
    Tensor *tensors;
    size_t tensor_count;
} Container;

/* `data` starts at a multiple of 64. On failure nothing is left to free. */
bool cr_container_open(Container *container, const uint8_t *data, size_t bytes, char *error);

void cr_container_close(Container *container);

/* NULL where there is none. */
const Entry *cr_container_entry(const Container *container, const char *key);

/* The tensor of that name, or the one that it is an alias of; NULL where there is none. */
const Tensor *cr_container_tensor(const Container *container, const char *name);

bool cr_text_is(Text text, const char *other);

/* Ranges of values and scales: aligned, behind the directory, apart, zeros between; checksums. */
bool cr_container_check_ranges(const Container *container, size_t data_start, char *error);

/* For messages: "%.*s". */
#define CR_SHOWN(text_) (int)((text_).bytes < 100 ? (text_).bytes : 100), (text_).text

#endif
