#define _POSIX_C_SOURCE 200809L

#include "file.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "failure.h"

#if defined(__unix__) || defined(__APPLE__)
#define HAVE_MAPPING 1
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#define ALIGNMENT 64

void *cr_allocate(size_t count, size_t size) {
    size_t bytes;
    if (!cr_multiply(count, size, &bytes) || bytes > SIZE_MAX - 2 * ALIGNMENT)
        return NULL;
    uint8_t *memory = calloc(bytes + ALIGNMENT + sizeof(void *), 1);
    if (memory == NULL)
        return NULL;
    const uintptr_t first = (uintptr_t)memory + sizeof(void *);
    uint8_t *aligned = memory + sizeof(void *) + (ALIGNMENT - first % ALIGNMENT) % ALIGNMENT;
    memcpy(aligned - sizeof(void *), &memory, sizeof memory);
    return aligned;
}

void cr_release(void *memory) {
    if (memory == NULL)
        return;
    void *start;
    memcpy(&start, (uint8_t *)memory - sizeof(void *), sizeof start);
    free(start);
}

#ifdef HAVE_MAPPING
/* False where the file cannot be mapped, such as a pipe, which is not opened either. */
static bool map(FileBytes *file, const char *path) {
    struct stat status;
    if (stat(path, &status) != 0 || !S_ISREG(status.st_mode))
        return false;
    const int handle = open(path, O_RDONLY | O_CLOEXEC);
    if (handle < 0)
        return false;
    void *data = MAP_FAILED;
    if (fstat(handle, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0 &&
        (uint64_t)status.st_size <= SIZE_MAX)
        data = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, handle, 0);
    close(handle);
    if (data == MAP_FAILED)
        return false;
    *file = (FileBytes){data, (size_t)status.st_size, true, true};
    return true;
}
#endif

static bool read_all(FileBytes *file, FILE *stream, char *error) {
    size_t room = 1 << 16, bytes = 0;
    uint8_t *data = cr_allocate(room, 1);
    while (data != NULL) {
        bytes += fread(data + bytes, 1, room - bytes, stream);
        if (bytes < room)
            break;
        uint8_t *larger = room <= SIZE_MAX / 2 ? cr_allocate(room * 2, 1) : NULL;
        if (larger != NULL)
            memcpy(larger, data, bytes);
        cr_release(data);
        data = larger;
        room *= 2;
    }
    if (data == NULL)
        return cr_fail(error, "no memory for the file");
    if (ferror(stream)) {
        cr_release(data);
        return cr_fail(error, "cannot be read: %s", strerror(errno));
    }
    *file = (FileBytes){data, bytes, false, true};
    return true;
}

bool cr_file_open(FileBytes *file, const char *path, char *error) {
#ifdef HAVE_MAPPING
    if (map(file, path))
        return true;
#endif
    FILE *stream = fopen(path, "rb");
    if (stream == NULL)
        return cr_fail(error, "cannot be opened: %s", strerror(errno));
    const bool done = read_all(file, stream, error);
    fclose(stream);
    return done;
}

void cr_file_close(FileBytes *file) {
    if (!file->owned || file->data == NULL)
        return;
#ifdef HAVE_MAPPING
    if (file->mapped) {
        munmap((void *)(uintptr_t)file->data, file->bytes);
        return;
    }
#endif
    cr_release((void *)(uintptr_t)file->data);
}
