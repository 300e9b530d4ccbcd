#include "utf8.h"

size_t cr_utf8_next(const uint8_t *text, size_t bytes, int32_t *point) {
    static const int32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t first = text[0];
    if (first < 0x80) {
        *point = first;
        return 1;
    }
    *point = -1;
    const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || length > bytes)
        return 1;
    int32_t value = first & (0x7f >> length);
    for (size_t i = 1; i < length; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 1;
        value = value << 6 | (text[i] & 0x3f);
    }
    if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
        return 1;
    *point = value;
    return length;
}

bool cr_utf8_valid(const uint8_t *text, size_t bytes) {
    int32_t point = 0;
    for (size_t at = 0; at < bytes && point >= 0;)
        at += cr_utf8_next(text + at, bytes - at, &point);
    return point >= 0;
}
