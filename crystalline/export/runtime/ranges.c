/* That values and scales lie apart, with zeros between them, and are what was written. */
#include <stdlib.h>

#include "bytes.h"
#include "container.h"
#include "crc32c.h"
#include "failure.h"
#include "file.h"

typedef struct {
    const uint8_t *start;
    const uint8_t *end;
    const Tensor *tensor;
} Range;

static int by_start(const void *a, const void *b) {
    const Range *left = a, *right = b;
    return (left->start > right->start) - (left->start < right->start);
}

static bool all_zero(const uint8_t *at, const uint8_t *end) {
    for (; end - at >= 8; at += 8)
        if (cr_u64(at) != 0)
            return false;
    for (; at < end; at++)
        if (*at != 0)
            return false;
    return true;
}

static bool check_gaps(
    const Container *container, Range *ranges, size_t count, size_t data_start, char *error) {
    if (count > 0)
        qsort(ranges, count, sizeof *ranges, by_start);
    const uint8_t *end = container->data + data_start;
    for (size_t i = 0; i < count; i++) {
        const Text name = ranges[i].tensor->name;
        if (ranges[i].start < end)
            return cr_fail(
                error, "tensor %.*s: overlaps with the directory or another tensor",
                CR_SHOWN(name));
        if (!all_zero(end, ranges[i].start))
            return cr_fail(error, "damaged: bytes in the gap before tensor %.*s", CR_SHOWN(name));
        end = ranges[i].end;
    }
    if (!all_zero(end, container->data + container->bytes))
        return cr_fail(error, "damaged: bytes behind the last tensor");
    return true;
}

bool cr_container_check_ranges(const Container *container, size_t data_start, char *error) {
    Range *ranges = cr_allocate(container->tensor_count, 2 * sizeof(Range));
    if (ranges == NULL)
        return cr_fail(error, "no memory for the directory");
    size_t count = 0;
    for (size_t i = 0; i < container->tensor_count; i++) {
        const Tensor *tensor = &container->tensors[i];
        if (tensor->value_bytes > 0)
            ranges[count++] =
                (Range){tensor->values, tensor->values + tensor->value_bytes, tensor};
        if (tensor->scale_bytes > 0)
            ranges[count++] =
                (Range){tensor->scales, tensor->scales + tensor->scale_bytes, tensor};
    }
    bool good = check_gaps(container, ranges, count, data_start, error);
    cr_release(ranges);
    for (size_t i = 0; good && i < container->tensor_count; i++) {
        const Tensor *tensor = &container->tensors[i];
        uint32_t crc = cr_crc32c(0, tensor->scales, tensor->scale_bytes);
        crc = cr_crc32c(crc, tensor->values, tensor->value_bytes);
        if (crc != tensor->crc)
            good = cr_fail(
                error, "tensor %.*s: damaged, its checksum is wrong", CR_SHOWN(tensor->name));
    }
    return good;
}
