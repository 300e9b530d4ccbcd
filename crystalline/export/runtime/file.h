/* The bytes of a file: mapped where the system can, else read. */
#ifndef CRYSTAL_FILE_H
#define CRYSTAL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *data;
    size_t bytes;
    bool mapped;
    bool owned;     /* false: the caller's memory */
} FileBytes;

bool cr_file_open(FileBytes *file, const char *path, char *error);

void cr_file_close(FileBytes *file);

/* Memory at a multiple of 64, all zero; NULL where there is none. */
void *cr_allocate(size_t count, size_t size);

void cr_release(void *memory);

#endif
