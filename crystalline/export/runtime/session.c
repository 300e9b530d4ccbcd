/* A window of tokens and the logits of what follows it, computed anew only where something changed.
 *
 * Positions are numbered within the window. Until it is full, what was computed for earlier
 * positions stays right; once it slides, every position has another number and all are computed
 * anew. Behind the last attention only the last position is needed. */
#include <stdlib.h>

#include "bytes.h"
#include "failure.h"
#include "layers.h"
#include "threads.h"

struct CrystalSession {
    const Crystal *model;
    const Kernels *kernels;
    Threads *threads;
    unsigned thread_count;
    Workspace *work;            /* one a thread */
    int32_t *tokens;
    size_t length;              /* of the window */
    size_t done;                /* positions that passed the blocks below `top` */
    bool attends;
    size_t top;                 /* the last block with attention */
    float *stream;              /* of all positions, where there are blocks below `top` */
    float **keys, **values;     /* of each block below `top` */
    float *normed;              /* of all positions, what the attention of `top` reads */
    float *last;                /* stream of the last position */
    float *scratch;
    float *logits;
};

/* One block's turn for all positions that are not done. */
typedef struct {
    CrystalSession *session;
    size_t layer;
} Turn;

static size_t chunk_end(size_t first, size_t end) {
    return end - first < CHUNK ? end : first + CHUNK;
}

static void embed_positions(void *context, size_t thread, size_t first, size_t end) {
    CrystalSession *session = context;
    Workspace *work = &session->work[thread];
    float *target = session->top > 0 ? session->stream : work->mixed;
    for (size_t place = session->done + first; place < session->done + end; place++) {
        float *row = session->top > 0 ? target + place * work->stride : target;
        cr_embed(work, session->tokens[place], place, row);
        if (session->top == 0)
            cr_norm(
                work, &session->model->blocks[0].attention_norm, row, 1,
                session->normed + place * work->stride);
    }
}

static void store_keys(void *context, size_t thread, size_t first, size_t end) {
    const Turn *turn = context;
    CrystalSession *session = turn->session;
    Workspace *work = &session->work[thread];
    const Block *block = &session->model->blocks[turn->layer];
    for (first += session->done, end += session->done; first < end;) {
        const size_t next = chunk_end(first, end), at = first * work->stride;
        cr_norm(work, &block->attention_norm, session->stream + at, next - first, work->normed);
        cr_keys_and_values(
            work, block, work->normed, next - first, session->keys[turn->layer] + at,
            session->values[turn->layer] + at);
        first = next;
    }
}

static void pass_block(void *context, size_t thread, size_t first, size_t end) {
    const Turn *turn = context;
    CrystalSession *session = turn->session;
    Workspace *work = &session->work[thread];
    const Block *block = &session->model->blocks[turn->layer];
    for (first += session->done, end += session->done; first < end;) {
        const size_t next = chunk_end(first, end), count = next - first;
        float *stream = session->stream + first * work->stride;
        if (block->attends) {
            cr_norm(work, &block->attention_norm, stream, count, work->normed);
            cr_attend(
                work, block, session->keys[turn->layer], session->values[turn->layer], first,
                count, stream);
        }
        cr_field_and_mlp(work, block, stream, count);
        first = next;
    }
}

/* Brings every position of the window to the attention of the block `top`. */
static void pass_positions(CrystalSession *session) {
    const size_t pending = session->length - session->done, stride = session->work[0].stride;
    cr_threads_run(session->threads, pending, CHUNK, embed_positions, session);
    for (size_t layer = 0; layer < session->top; layer++) {
        Turn turn = {session, layer};
        if (session->model->blocks[layer].attends)
            cr_threads_run(session->threads, pending, CHUNK, store_keys, &turn);
        cr_threads_run(session->threads, pending, CHUNK, pass_block, &turn);
    }
    if (session->top > 0)
        cr_norm(
            &session->work[0], &session->model->blocks[session->top].attention_norm,
            session->stream + session->done * stride, pending,
            session->normed + session->done * stride);
    session->done = session->length;
}

static void head_rows(void *context, size_t thread, size_t first, size_t end) {
    CrystalSession *session = context;
    (void)thread;
    session->kernels->dot(
        &session->model->head, first, end - first, session->last, session->logits + first);
}

const float *crystal_session_step(CrystalSession *session) {
    const Crystal *model = session->model;
    Workspace *work = &session->work[0];
    if (session->length == 0)
        return NULL;
    const size_t place = session->length - 1;
    if (session->attends)
        pass_positions(session);
    if (session->attends && session->top > 0)
        memcpy(session->last, session->stream + place * work->stride,
               work->stride * sizeof(float));
    else
        cr_embed(work, session->tokens[place], place, session->last);
    for (size_t layer = session->top; layer < model->num_layers; layer++) {
        const Block *block = &model->blocks[layer];
        if (block->attends) {
            const float *normed = session->normed + place * work->stride;
            if (model->published && model->version == 2)
                memcpy(session->last, normed, work->stride * sizeof(float));
            cr_attend_last(
                work, block, session->normed, session->length, session->scratch, session->last);
        }
        cr_field_and_mlp(work, block, session->last, 1);
    }
    if (model->has_norm)
        cr_norm(work, &model->norm, session->last, 1, session->last);
    cr_threads_run(session->threads, model->vocab_size, 64, head_rows, session);
    if (model->head_bias != NULL)
        session->kernels->add(model->head_bias, model->vocab_size, session->logits);
    return session->logits;
}

void crystal_session_reset(CrystalSession *session) {
    session->length = session->done = 0;
}

bool crystal_session_append(
    CrystalSession *session, const int32_t *ids, size_t count, char *error) {
    const size_t room = session->model->context_length;
    for (size_t i = 0; i < count; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= session->model->vocab_size)
            return cr_fail(
                error, "%ld is no token: ids lie in 0..%zu", (long)ids[i],
                session->model->vocab_size - 1);
    if (count > room) {
        ids += count - room;
        count = room;
    }
    if (count > room - session->length) {
        const size_t drop = count - (room - session->length);
        memmove(session->tokens, session->tokens + drop,
                (session->length - drop) * sizeof *session->tokens);
        session->length -= drop;
        session->done = 0;
    }
    if (count > 0)
        memcpy(session->tokens + session->length, ids, count * sizeof *ids);
    session->length += count;
    return true;
}

static bool open_blocks(CrystalSession *session, size_t stride) {
    const size_t room = session->model->context_length * stride;
    if (!session->attends)
        return true;
    session->normed = cr_allocate(room, sizeof(float));
    session->scratch = cr_allocate(cr_attend_last_room(session->model, stride), sizeof(float));
    bool good = session->normed != NULL && session->scratch != NULL;
    if (session->top == 0)
        return good;
    session->stream = cr_allocate(room, sizeof(float));
    session->keys = cr_allocate(session->top, sizeof *session->keys);
    session->values = cr_allocate(session->top, sizeof *session->values);
    good = good && session->stream && session->keys && session->values;
    for (size_t layer = 0; good && layer < session->top; layer++) {
        if (!session->model->blocks[layer].attends)
            continue;
        session->keys[layer] = cr_allocate(room, sizeof(float));
        session->values[layer] = cr_allocate(room, sizeof(float));
        good = session->keys[layer] && session->values[layer];
    }
    return good;
}

CrystalSession *crystal_session_new(
    const Crystal *model, unsigned threads, const char *kernels, char *error) {
    CrystalSession *session = calloc(1, sizeof *session);
    if (session == NULL) {
        cr_fail(error, "no memory for the session");
        return NULL;
    }
    session->model = model;
    session->kernels = cr_kernels(kernels);
    session->thread_count = threads < 1 ? 1 : threads;
    for (size_t layer = 0; layer < model->num_layers; layer++)
        if (model->blocks[layer].attends) {
            session->attends = true;
            session->top = layer;
        }
    bool good = session->kernels != NULL && threads <= 256;
    if (!good)
        cr_fail(error, session->kernels ? "at most 256 threads" : "no such kernels here");
    if (good) {
        session->threads = cr_threads_new(session->thread_count, &good);
        session->work = calloc(session->thread_count, sizeof *session->work);
        session->tokens = cr_allocate(model->context_length, sizeof *session->tokens);
        session->logits = cr_allocate(model->vocab_size, sizeof(float));
        good = good && session->work && session->tokens && session->logits;
        for (unsigned i = 0; good && i < session->thread_count; i++)
            good = cr_workspace_open(&session->work[i], model, session->kernels);
        if (good) {
            session->last = cr_allocate(session->work[0].stride, sizeof(float));
            good = session->last != NULL && open_blocks(session, session->work[0].stride);
        }
        if (!good)
            cr_fail(error, "no memory or threads for the session");
    }
    if (good)
        return session;
    crystal_session_free(session);
    return NULL;
}

void crystal_session_free(CrystalSession *session) {
    if (session == NULL)
        return;
    cr_threads_free(session->threads);
    for (unsigned i = 0; session->work != NULL && i < session->thread_count; i++)
        cr_workspace_close(&session->work[i]);
    for (size_t layer = 0; layer < session->top; layer++) {
        if (session->keys != NULL)
            cr_release(session->keys[layer]);
        if (session->values != NULL)
            cr_release(session->values[layer]);
    }
    free(session->work);
    cr_release(session->tokens);
    cr_release(session->stream);
    cr_release(session->keys);
    cr_release(session->values);
    cr_release(session->normed);
    cr_release(session->last);
    cr_release(session->scratch);
    cr_release(session->logits);
    free(session);
}
