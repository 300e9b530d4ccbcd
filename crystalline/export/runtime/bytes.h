/* Numbers in bytes at any address, and a cursor that cannot leave its range. */
#ifndef CRYSTAL_BYTES_H
#define CRYSTAL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "files are little-endian and are used where they lie: this machine cannot run them"
#endif

static inline uint16_t cr_u16(const uint8_t *at) {
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint32_t cr_u32(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline uint64_t cr_u64(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline float cr_f32(const uint8_t *at) {
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

static inline double cr_f64(const uint8_t *at) {
    double value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* Products and sums that say when they do not fit. */
static inline bool cr_multiply(size_t a, size_t b, size_t *product) {
    if (b != 0 && a > SIZE_MAX / b)
        return false;
    *product = a * b;
    return true;
}

static inline bool cr_add(size_t a, size_t b, size_t *sum) {
    if (a > SIZE_MAX - b)
        return false;
    *sum = a + b;
    return true;
}

static inline size_t cr_round_up(size_t value, size_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

typedef struct {
    const uint8_t *at;
    const uint8_t *end;
} Cursor;

/* The next bytes, or NULL if there are not so many. */
static inline const uint8_t *cr_take(Cursor *cursor, size_t bytes) {
    if ((size_t)(cursor->end - cursor->at) < bytes)
        return NULL;
    const uint8_t *start = cursor->at;
    cursor->at += bytes;
    return start;
}

#endif
