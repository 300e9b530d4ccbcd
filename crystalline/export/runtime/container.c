#include "container.h"

#include "bytes.h"
#include "crc32c.h"
#include "failure.h"
#include "file.h"
#include "utf8.h"

#define HEADER_BYTES 64
#define LEAST_ENTRY_BYTES 5     /* length, a key of one byte, type, truth value */
#define LEAST_TENSOR_BYTES 47   /* a name of one byte, rank 0 */
#define MOST_RANK 4

/* As in order of bytes. */
static int compare(Text a, Text b) {
    const size_t shared = a.bytes < b.bytes ? a.bytes : b.bytes;
    const int found = shared > 0 ? memcmp(a.text, b.text, shared) : 0;
    return found != 0 ? found : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

bool cr_text_is(Text text, const char *other) {
    return compare(text, (Text){other, strlen(other)}) == 0;
}

/* A u16 length, then UTF-8. */
static bool take_name(Cursor *cursor, Text *name, const char *what, char *error) {
    const uint8_t *length = cr_take(cursor, 2);
    const uint8_t *text = length == NULL ? NULL : cr_take(cursor, cr_u16(length));
    if (text == NULL)
        return cr_fail(error, "the %s ends within a name", what);
    *name = (Text){(const char *)text, cr_u16(length)};
    if (name->bytes == 0 || !cr_utf8_valid(text, name->bytes))
        return cr_fail(error, "the %s has a name that is empty or not UTF-8", what);
    return true;
}

static bool take_value(Cursor *cursor, Entry *entry, char *error) {
    static const size_t sizes[] = {8, 8, 8, 1};
    const uint8_t *type = cr_take(cursor, 1);
    if (type == NULL || *type > ENTRY_TRUTH)
        return cr_fail(
            error, "metadata %.*s: type %d is unknown", CR_SHOWN(entry->key), type ? *type : -1);
    entry->type = (EntryType)*type;
    const uint8_t *value = cr_take(cursor, sizes[entry->type]);
    if (value == NULL)
        return cr_fail(error, "metadata %.*s: cut off", CR_SHOWN(entry->key));
    if (entry->type == ENTRY_F64) {
        entry->real = cr_f64(value);
        return true;
    }
    entry->number = entry->type == ENTRY_TRUTH ? *value : cr_u64(value);
    if (entry->type == ENTRY_TRUTH && entry->number > 1)
        return cr_fail(error, "metadata %.*s: a truth value is 0 or 1", CR_SHOWN(entry->key));
    if (entry->type != ENTRY_TEXT)
        return true;
    if (entry->number > SIZE_MAX)
        return cr_fail(error, "metadata %.*s: cut off", CR_SHOWN(entry->key));
    const uint8_t *text = cr_take(cursor, (size_t)entry->number);
    if (text == NULL)
        return cr_fail(error, "metadata %.*s: cut off", CR_SHOWN(entry->key));
    entry->text = (Text){(const char *)text, (size_t)entry->number};
    if (!cr_utf8_valid(text, entry->text.bytes))
        return cr_fail(error, "metadata %.*s: not UTF-8", CR_SHOWN(entry->key));
    return true;
}

static bool read_metadata(Container *container, Cursor cursor, char *error) {
    for (size_t i = 0; i < container->entry_count; i++) {
        Entry *entry = &container->entries[i];
        if (!take_name(&cursor, &entry->key, "metadata", error) ||
            !take_value(&cursor, entry, error))
            return false;
        if (i > 0 && compare(entry[-1].key, entry->key) >= 0)
            return cr_fail(
                error, "metadata %.*s: keys are not in ascending order", CR_SHOWN(entry->key));
    }
    return cursor.at == cursor.end || cr_fail(error, "the metadata are longer than their entries");
}

/* Shape, rows and columns, and the bytes that these need. */
static bool check_shape(Tensor *tensor, uint32_t group, char *error) {
    size_t rows = 1, values, scales;
    bool fits = true;
    for (unsigned axis = 0; axis < tensor->rank; axis++)
        fits = fits && tensor->shape[axis] <= SIZE_MAX;
    for (unsigned axis = 0; fits && axis + 1 < tensor->rank; axis++)
        fits = cr_multiply(rows, (size_t)tensor->shape[axis], &rows);
    tensor->rows = rows;
    tensor->cols = tensor->rank > 0 && fits ? (size_t)tensor->shape[tensor->rank - 1] : 1;
    if (!fits || !cr_scheme_bytes(tensor->scheme, rows, tensor->cols, &values, &scales))
        return cr_fail(error, "tensor %.*s: its shape is too large", CR_SHOWN(tensor->name));
    if (group != (cr_scheme_is_grouped(tensor->scheme) ? GROUP : 0))
        return cr_fail(
            error, "tensor %.*s: groups of %u are unknown", CR_SHOWN(tensor->name), group);
    if (values != tensor->value_bytes || scales != tensor->scale_bytes)
        return cr_fail(
            error, "tensor %.*s: %zu bytes of values and %zu of scales, where its shape needs %zu "
            "and %zu", CR_SHOWN(tensor->name), tensor->value_bytes, tensor->scale_bytes, values,
            scales);
    return true;
}

/* Where a part lies; an address within the file, whatever the numbers say. */
static bool place(
    const Container *container, const Tensor *tensor, const uint8_t *numbers,
    const uint8_t **start, size_t *bytes, char *error) {
    const uint64_t offset = cr_u64(numbers), length = cr_u64(numbers + 8);
    if (offset > container->bytes || length > container->bytes - offset)
        return cr_fail(
            error, "tensor %.*s: reaches beyond the end of the file", CR_SHOWN(tensor->name));
    if (offset % 64 != 0)
        return cr_fail(
            error, "tensor %.*s: does not start at a multiple of 64", CR_SHOWN(tensor->name));
    *start = container->data + offset;
    *bytes = (size_t)length;
    return true;
}

static bool take_tensor(const Container *container, Cursor *cursor, Tensor *tensor, char *error) {
    if (!take_name(cursor, &tensor->name, "directory", error))
        return false;
    const uint8_t *numbers = cr_take(cursor, 4);
    if (numbers == NULL)
        return cr_fail(error, "the directory ends within tensor %.*s", CR_SHOWN(tensor->name));
    const uint16_t scheme = cr_u16(numbers);
    tensor->rank = cr_u16(numbers + 2);
    if (!cr_scheme_known(scheme))
        return cr_fail(
            error, "tensor %.*s: scheme %u is unknown", CR_SHOWN(tensor->name), scheme);
    if (tensor->rank > MOST_RANK)
        return cr_fail(
            error, "tensor %.*s: rank %u is above 4", CR_SHOWN(tensor->name), tensor->rank);
    tensor->scheme = (Scheme)scheme;
    const uint8_t *shape = cr_take(cursor, 8 * (size_t)tensor->rank);
    const uint8_t *rest = shape == NULL ? NULL : cr_take(cursor, 40);
    if (rest == NULL)
        return cr_fail(error, "the directory ends within tensor %.*s", CR_SHOWN(tensor->name));
    for (unsigned axis = 0; axis < tensor->rank; axis++)
        tensor->shape[axis] = cr_u64(shape + 8 * axis);
    tensor->crc = cr_u32(rest + 4);
    if (!place(container, tensor, rest + 8, &tensor->values, &tensor->value_bytes, error) ||
        !place(container, tensor, rest + 24, &tensor->scales, &tensor->scale_bytes, error))
        return false;
    if (tensor->scale_bytes == 0 && tensor->scales != container->data)
        return cr_fail(
            error, "tensor %.*s: an offset of scales that are not there", CR_SHOWN(tensor->name));
    return check_shape(tensor, cr_u32(rest), error);
}

static bool read_directory(Container *container, Cursor cursor, char *error) {
    for (size_t i = 0; i < container->tensor_count; i++) {
        Tensor *tensor = &container->tensors[i];
        if (!take_tensor(container, &cursor, tensor, error))
            return false;
        if (i > 0 && compare(tensor[-1].name, tensor->name) >= 0)
            return cr_fail(
                error, "tensor %.*s: names are not in ascending order", CR_SHOWN(tensor->name));
    }
    return cursor.at == cursor.end ||
           cr_fail(error, "the directory is longer than its entries");
}

static const Entry *entry_of(const Container *container, Text key) {
    size_t low = 0, high = container->entry_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = compare(container->entries[middle].key, key);
        if (order == 0)
            return &container->entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static const Tensor *tensor_of(const Container *container, Text name) {
    size_t low = 0, high = container->tensor_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = compare(container->tensors[middle].name, name);
        if (order == 0)
            return &container->tensors[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static bool check_aliases(const Container *container, char *error) {
    static const char prefix[] = "alias.";
    const size_t length = sizeof prefix - 1;
    for (size_t i = 0; i < container->entry_count; i++) {
        const Entry *entry = &container->entries[i];
        if (entry->key.bytes < length || memcmp(entry->key.text, prefix, length) != 0)
            continue;
        const Text name = {entry->key.text + length, entry->key.bytes - length};
        if (entry->type != ENTRY_TEXT || tensor_of(container, entry->text) == NULL)
            return cr_fail(
                error, "metadata %.*s: names no tensor of the file", CR_SHOWN(entry->key));
        if (tensor_of(container, name) != NULL)
            return cr_fail(
                error, "metadata %.*s: the file has a tensor of this name", CR_SHOWN(entry->key));
    }
    return true;
}

const Entry *cr_container_entry(const Container *container, const char *key) {
    return entry_of(container, (Text){key, strlen(key)});
}

const Tensor *cr_container_tensor(const Container *container, const char *name) {
    const Tensor *tensor = tensor_of(container, (Text){name, strlen(name)});
    if (tensor != NULL)
        return tensor;
    char key[128] = "alias.";
    if (strlen(name) > sizeof key - 7)
        return NULL;
    strcat(key, name);
    const Entry *alias = cr_container_entry(container, key);
    return alias == NULL ? NULL : tensor_of(container, alias->text);
}

/* A part of the file by its offset and size in the header. */
static bool section(
    const Container *container, size_t at, size_t least, Cursor *cursor, const char *what,
    char *error) {
    const uint64_t offset = cr_u64(container->data + at), length = cr_u64(container->data + at + 8);
    if (offset < least || offset > container->bytes || length > container->bytes - offset)
        return cr_fail(error, "the %s does not lie within the file", what);
    cursor->at = container->data + offset;
    cursor->end = cursor->at + length;
    return true;
}

static bool read_header(
    Container *container, Cursor *metadata, Cursor *directory, char *error) {
    const uint8_t *data = container->data;
    if (container->bytes < HEADER_BYTES)
        return cr_fail(error, "cut off: %zu bytes, shorter than a header", container->bytes);
    if (cr_u16(data + 6) != 0x1234)
        return cr_fail(error, "another byte order, or damaged");
    if (cr_u32(data + 60) != cr_crc32c(0, data, 60))
        return cr_fail(error, "damaged: the checksum of the header is wrong");
    if (cr_u64(data + 8) != container->bytes)
        return cr_fail(
            error, "%zu bytes, where its header says %llu: cut off or damaged", container->bytes,
            (unsigned long long)cr_u64(data + 8));
    if (cr_u64(data + 16) != HEADER_BYTES)
        return cr_fail(error, "the metadata do not follow the header");
    if (!section(container, 16, HEADER_BYTES, metadata, "metadata", error) ||
        !section(
            container, 32, (size_t)(metadata->end - data), directory, "directory", error))
        return false;
    uint32_t crc = cr_crc32c(0, metadata->at, (size_t)(metadata->end - metadata->at));
    crc = cr_crc32c(crc, directory->at, (size_t)(directory->end - directory->at));
    if (crc != cr_u32(data + 56))
        return cr_fail(error, "damaged: the checksum of metadata and directory is wrong");
    for (const uint8_t *at = metadata->end; at < directory->at; at++)
        if (*at != 0)
            return cr_fail(error, "damaged: bytes between metadata and directory");
    container->entry_count = cr_u32(data + 48);
    container->tensor_count = cr_u32(data + 52);
    /* So that what is allocated depends on the size of the file alone. */
    if (container->entry_count > (size_t)(metadata->end - metadata->at) / LEAST_ENTRY_BYTES ||
        container->tensor_count > (size_t)(directory->end - directory->at) / LEAST_TENSOR_BYTES)
        return cr_fail(error, "more entries than there is room for");
    return true;
}

bool cr_container_open(Container *container, const uint8_t *data, size_t bytes, char *error) {
    Cursor metadata = {NULL, NULL}, directory = {NULL, NULL};
    *container = (Container){.data = data, .bytes = bytes};
    if (!read_header(container, &metadata, &directory, error))
        return false;
    container->entries = cr_allocate(container->entry_count, sizeof(Entry));
    container->tensors = cr_allocate(container->tensor_count, sizeof(Tensor));
    bool good = container->entries != NULL && container->tensors != NULL;
    if (!good)
        cr_fail(error, "no memory for the directory");
    good = good && read_metadata(container, metadata, error) &&
           read_directory(container, directory, error) && check_aliases(container, error) &&
           cr_container_check_ranges(container, (size_t)(directory.end - data), error);
    if (!good)
        cr_container_close(container);
    return good;
}

void cr_container_close(Container *container) {
    cr_release(container->entries);
    cr_release(container->tensors);
    *container = (Container){0};
}
