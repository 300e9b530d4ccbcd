/* Runs neuron-field language models from .crystal files: open, tokenize, step, sample, close.
 *
 * A model is read-only and may be shared by threads; a session belongs to one thread at a time.
 * Functions that can fail write one line to `error`, which has room for CRYSTAL_ERROR_BYTES. */
#ifndef CRYSTAL_H
#define CRYSTAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CRYSTAL_ERROR_BYTES 320

/* Compute files of version 1 and 2 as their published runtimes did, errors included. */
#define CRYSTAL_PUBLISHED 1u

typedef struct Crystal Crystal;
typedef struct CrystalSession CrystalSession;

typedef struct {
    int version;                /* of the file: 1, 2 or 3 */
    size_t vocab_size;
    size_t context_length;
    size_t d_model;
    size_t num_layers;
    size_t num_heads;           /* 0: positions do not see each other */
    size_t neurons;             /* of all fields */
    bool has_tokenizer;
    int32_t eot_id;             /* of the token between documents, -1 where there is none */
    const char *kernels;        /* the instruction set that sessions use */
} CrystalInfo;

/* NULL on failure. The file is mapped, not read, where the system can. */
Crystal *crystal_open(const char *path, unsigned flags, char *error);

/* The same from memory that outlives the model and starts at a multiple of 64 bytes. */
Crystal *crystal_open_memory(const void *data, size_t bytes, unsigned flags, char *error);

void crystal_close(Crystal *model);

CrystalInfo crystal_info(const Crystal *model);

/* Ids of a text; `ids` has room for `bytes` of them. Returns how many, or -1. */
int64_t crystal_tokenize(
    const Crystal *model, const char *text, size_t bytes, int32_t *ids, char *error);

/* The bytes that a token stands for, perhaps a part of a character; none if it is special. */
const char *crystal_token(const Crystal *model, int32_t id, size_t *bytes);

/* Writes at most `room` bytes of the text of `ids`; returns how many there are. */
size_t crystal_detokenize(
    const Crystal *model, const int32_t *ids, size_t count, char *text, size_t room);

/* `kernels` names an instruction set ("scalar", "avx2", "avx512", "neon"); NULL: the best here. */
CrystalSession *crystal_session_new(
    const Crystal *model, unsigned threads, const char *kernels, char *error);

void crystal_session_free(CrystalSession *session);

/* Forget all tokens. */
void crystal_session_reset(CrystalSession *session);

/* Add tokens behind those that are there; the oldest leave a full window. */
bool crystal_session_append(
    CrystalSession *session, const int32_t *ids, size_t count, char *error);

/* Logits of the token that follows the last one, vocab_size of them, until the next call with this
 * session; NULL without tokens. */
const float *crystal_session_step(CrystalSession *session);

typedef struct {
    float temperature;          /* divides the logits; 0 takes the likeliest token */
    size_t top_k;               /* draw from so many likeliest tokens; 0: all */
    float top_p;                /* and from the fewest likeliest with this probability; 1: all */
    float min_p;                /* and from those with this share of the likeliest's; 0: all */
    uint64_t state[4];          /* of the generator */
    void *scratch;              /* owned by the sampler */
    size_t room;
} CrystalSampler;

/* Neutral options, the generator seeded. */
void crystal_sampler_start(CrystalSampler *sampler, uint64_t seed);

void crystal_sampler_free(CrystalSampler *sampler);

/* The id drawn, or -1 where memory ran out. */
int32_t crystal_sample(CrystalSampler *sampler, const float *logits, size_t count);

#ifdef __cplusplus
}
#endif

#endif
