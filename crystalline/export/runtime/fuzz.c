/* Opens and runs mutated model files: crystal_fuzz RUNS SEED FILE...
 *
 * Each run changes a file in a few places, mends its checksums (mostly: else nothing behind them
 * would be reached), opens it from memory that ends where the file ends, and, where it is accepted,
 * tokenizes, computes and draws. Built with sanitizers, any bad access ends the program. */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "crc32c.h"
#include "crystal.h"
#include "file.h"

typedef struct {
    uint8_t *data;
    size_t bytes;
} Sample;

static uint64_t state;

/* Below a bound, or of all numbers for 0. */
static uint64_t draw(uint64_t below) {
    state += 0x9e3779b97f4a7c15u;
    uint64_t mixed = state;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
    mixed ^= mixed >> 31;
    return below == 0 ? mixed : mixed % below;
}

static void put(uint8_t *at, uint64_t value, size_t bytes) {
    memcpy(at, &value, bytes);
}

/* A place that matters: mostly in header, metadata and directory. */
static size_t place(const Sample *sample) {
    size_t end = sample->bytes;
    if (draw(8) != 0 && sample->bytes > 64 && cr_u16(sample->data + 4) == 3) {
        const uint64_t behind = cr_u64(sample->data + 32) + cr_u64(sample->data + 40);
        end = behind < end ? (size_t)behind : end;
    } else if (draw(2) == 0 && sample->bytes > 96) {
        end = 96;
    }
    return end == 0 ? 0 : (size_t)draw(end);
}

static void change(Sample *sample) {
    static const uint64_t odd[] = {
        0, 1, 2, 31, 63, 64, 127, 128, 255, 256, 0x7fff, 0xffff, 0x10000, 0x7fffffff, 0x80000000,
        0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff,
        0xffffffffffffffc0, 0x7fc00000, 0x7f800000};
    if (sample->bytes == 0)
        return;
    const size_t at = place(sample), left = sample->bytes - at;
    const size_t widths[] = {1, 2, 4, 8};
    size_t width = widths[draw(4)];
    width = width < left ? width : 1;
    uint8_t *target = sample->data + at;
    uint64_t value = 0;
    memcpy(&value, target, width);
    switch (draw(6)) {
    case 0:
        *target ^= (uint8_t)(1u << draw(8));
        break;
    case 1:
        put(target, odd[draw(sizeof odd / sizeof *odd)], width);
        break;
    case 2:
        put(target, value + draw(129) - 64, width);
        break;
    case 3:
        put(target, draw(0), width);
        *target = (uint8_t)draw(256);
        break;
    case 4: {   /* a part over another */
        const size_t from = place(sample), most = sample->bytes - (from > at ? from : at);
        memmove(target, sample->data + from, (size_t)draw(1 + (most < 64 ? most : 64)));
        break;
    }
    default:
        if (draw(4) == 0)
            sample->bytes = at;     /* cut off */
        else
            put(target, value * (1 + draw(4)) - draw(3), width);
    }
}

/* Checksums of a directory entry's data, as far as the entry can be followed. */
static const uint8_t *mend_tensor(Sample *sample, Cursor *cursor) {
    const uint8_t *length = cr_take(cursor, 2);
    const uint8_t *name = length ? cr_take(cursor, cr_u16(length)) : NULL;
    const uint8_t *numbers = name ? cr_take(cursor, 4) : NULL;
    const uint8_t *shape = numbers ? cr_take(cursor, 8 * (size_t)cr_u16(numbers + 2)) : NULL;
    const uint8_t *rest = shape ? cr_take(cursor, 40) : NULL;
    if (rest == NULL)
        return NULL;
    uint32_t crc = 0;
    for (int part = 1; part >= 0; part--) {     /* scales, then values */
        const uint64_t offset = cr_u64(rest + 8 + 16 * part), bytes = cr_u64(rest + 16 + 16 * part);
        if (offset > sample->bytes || bytes > sample->bytes - offset)
            return rest;
        crc = cr_crc32c(crc, sample->data + offset, (size_t)bytes);
    }
    put(sample->data + (rest + 4 - sample->data), crc, 4);
    return rest;
}

static void mend(Sample *sample) {
    uint8_t *data = sample->data;
    if (sample->bytes < 64)
        return;
    if (cr_u16(data + 4) == 2 && draw(8) != 0)
        put(data + 60, sample->bytes, 4);
    if (cr_u16(data + 4) != 3)
        return;
    if (draw(8) != 0)
        put(data + 8, sample->bytes, 8);
    const uint64_t metadata = cr_u64(data + 24), start = cr_u64(data + 32), size = cr_u64(data + 40);
    if (metadata <= sample->bytes - 64 && start <= sample->bytes &&
        size <= sample->bytes - start) {
        Cursor cursor = {data + start, data + start + size};
        while (cursor.at < cursor.end && mend_tensor(sample, &cursor) != NULL)
            continue;
        uint32_t crc = cr_crc32c(0, data + 64, (size_t)metadata);
        crc = cr_crc32c(crc, data + start, (size_t)size);
        put(data + 56, crc, 4);
    }
    put(data + 60, cr_crc32c(0, data, 60), 4);
}

/* What a program would do with an accepted model. */
static void use(const Crystal *model) {
    static const char text[] = "It's a t\xc3\xa9st:  12 \xff\xf0\x9f\x98\x80 \xe2\x80\x83words\n";
    char error[CRYSTAL_ERROR_BYTES], back[64];
    int32_t ids[sizeof text];
    const CrystalInfo info = crystal_info(model);
    int64_t count = crystal_tokenize(model, text, sizeof text - 1, ids, error);
    if (count > 0)
        crystal_detokenize(model, ids, (size_t)count, back, sizeof back);
    CrystalSession *session = crystal_session_new(model, 1, draw(4) ? NULL : "scalar", error);
    if (session == NULL)
        return;
    CrystalSampler sampler;
    crystal_sampler_start(&sampler, draw(0));
    sampler.top_p = draw(2) ? 1.0f : 0.7f;
    sampler.top_k = (size_t)draw(4);
    int32_t id = (int32_t)(info.vocab_size / 2);
    if (count > 0)
        crystal_session_append(session, ids, (size_t)count, error);
    for (int step = 0; step < 3; step++) {
        crystal_session_append(session, &id, 1, error);
        const float *logits = crystal_session_step(session);
        id = crystal_sample(&sampler, logits, info.vocab_size);
    }
    crystal_sampler_free(&sampler);
    crystal_session_free(session);
}

/* An exact copy at a multiple of 64, so that a byte too far is seen. */
static bool run(const Sample *sample) {
    char error[CRYSTAL_ERROR_BYTES] = "";
    const size_t bytes = sample->bytes;
    void *memory;
    if (posix_memalign(&memory, 64, bytes) != 0)
        return false;
    memcpy(memory, sample->data, bytes);
    Crystal *model =
        crystal_open_memory(memory, bytes, draw(4) == 0 ? CRYSTAL_PUBLISHED : 0, error);
    if (model != NULL)
        use(model);
    else if (error[0] == '\0' || strchr(error, '\n') != NULL)
        abort();    /* a refusal without one clear line */
    const bool accepted = model != NULL;
    crystal_close(model);
    free(memory);
    return accepted;
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "crystal_fuzz RUNS SEED FILE...\n");
        return 1;
    }
    const unsigned long runs = strtoul(arguments[1], NULL, 10);
    state = strtoull(arguments[2], NULL, 10);
    const size_t files = (size_t)count - 3;
    unsigned long accepted = 0;
    for (unsigned long i = 0; i < runs; i++) {
        FileBytes file;
        char error[CRYSTAL_ERROR_BYTES];
        const char *path = arguments[3 + i % files];
        if (!cr_file_open(&file, path, error)) {
            fprintf(stderr, "error: %s: %s\n", path, error);
            return 1;
        }
        Sample sample = {cr_allocate(file.bytes, 1), file.bytes};
        if (sample.data == NULL)
            return 1;
        memcpy(sample.data, file.data, file.bytes);
        cr_file_close(&file);
        for (uint64_t changes = draw(4); changes > 0; changes--)
            change(&sample);
        if (draw(8) != 0)
            mend(&sample);
        accepted += run(&sample);
        cr_release(sample.data);
    }
    printf("%lu files, %lu accepted\n", runs, accepted);
    return 0;
}
