#define _POSIX_C_SOURCE 200809L

#include "threads.h"

#if !defined(CRYSTAL_NO_THREADS) && (defined(__unix__) || defined(__APPLE__))
#include <pthread.h>
#include <stdlib.h>

typedef struct {
    Threads *threads;
    size_t number;
    pthread_t handle;
} Helper;

struct Threads {
    pthread_mutex_t lock;
    pthread_cond_t begin;
    pthread_cond_t done;
    size_t round;       /* of work, from 1 on */
    size_t busy;        /* helpers that still work */
    bool end;
    Work work;
    void *context;
    size_t items;
    size_t share;
    size_t count;       /* helpers and the caller */
    Helper helpers[];
};

static void do_share(const Threads *threads, size_t number) {
    const size_t first = number * threads->share;
    if (first >= threads->items)
        return;
    const size_t left = threads->items - first;
    const size_t own = left < threads->share ? left : threads->share;
    threads->work(threads->context, number, first, first + own);
}

static void *help(void *argument) {
    Helper *helper = argument;
    Threads *threads = helper->threads;
    size_t seen = 0;
    pthread_mutex_lock(&threads->lock);
    for (;;) {
        while (threads->round == seen && !threads->end)
            pthread_cond_wait(&threads->begin, &threads->lock);
        if (threads->end)
            break;
        seen = threads->round;
        pthread_mutex_unlock(&threads->lock);
        do_share(threads, helper->number);
        pthread_mutex_lock(&threads->lock);
        if (--threads->busy == 0)
            pthread_cond_signal(&threads->done);
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

Threads *cr_threads_new(unsigned count, bool *good) {
    *good = true;
    if (count <= 1)
        return NULL;
    Threads *threads = calloc(1, sizeof *threads + (count - 1) * sizeof(Helper));
    *good = threads != NULL;
    if (threads == NULL)
        return NULL;
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->begin, NULL);
    pthread_cond_init(&threads->done, NULL);
    for (threads->count = 1; *good && threads->count < count;) {
        Helper *helper = &threads->helpers[threads->count - 1];
        *helper = (Helper){.threads = threads, .number = threads->count};
        *good = pthread_create(&helper->handle, NULL, help, helper) == 0;
        threads->count += *good;
    }
    if (*good)
        return threads;
    cr_threads_free(threads);
    return NULL;
}

void cr_threads_free(Threads *threads) {
    if (threads == NULL)
        return;
    pthread_mutex_lock(&threads->lock);
    threads->end = true;
    pthread_cond_broadcast(&threads->begin);
    pthread_mutex_unlock(&threads->lock);
    for (size_t i = 0; i + 1 < threads->count; i++)
        pthread_join(threads->helpers[i].handle, NULL);
    pthread_cond_destroy(&threads->begin);
    pthread_cond_destroy(&threads->done);
    pthread_mutex_destroy(&threads->lock);
    free(threads);
}

void cr_threads_run(Threads *threads, size_t items, size_t multiple, Work work, void *context) {
    const size_t parts = threads == NULL ? 1 : threads->count;
    const size_t share = ((items + parts - 1) / parts + multiple - 1) / multiple * multiple;
    if (share >= items) {
        if (items > 0)
            work(context, 0, 0, items);
        return;
    }
    pthread_mutex_lock(&threads->lock);
    threads->work = work;
    threads->context = context;
    threads->items = items;
    threads->share = share;
    threads->busy = threads->count - 1;
    threads->round++;
    pthread_cond_broadcast(&threads->begin);
    pthread_mutex_unlock(&threads->lock);
    do_share(threads, 0);
    pthread_mutex_lock(&threads->lock);
    while (threads->busy > 0)
        pthread_cond_wait(&threads->done, &threads->lock);
    pthread_mutex_unlock(&threads->lock);
}
#else
Threads *cr_threads_new(unsigned count, bool *good) {
    *good = count <= 1;
    return NULL;
}

void cr_threads_free(Threads *threads) {
    (void)threads;
}

void cr_threads_run(Threads *threads, size_t items, size_t multiple, Work work, void *context) {
    (void)threads;
    (void)multiple;
    if (items > 0)
        work(context, 0, 0, items);
}
#endif
