/* A few threads that share one piece of work at a time; one thread needs none of this. */
#ifndef CRYSTAL_THREADS_H
#define CRYSTAL_THREADS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct Threads Threads;

/* Work on items first to end; `thread` numbers who does it, from 0 on. */
typedef void (*Work)(void *context, size_t thread, size_t first, size_t end);

/* NULL for one thread; sets `*good` to false where threads cannot be had. */
Threads *cr_threads_new(unsigned count, bool *good);

void cr_threads_free(Threads *threads);

/* Items in equal parts that start at multiples of `multiple`; returns when all are done. */
void cr_threads_run(Threads *threads, size_t items, size_t multiple, Work work, void *context);

#endif
