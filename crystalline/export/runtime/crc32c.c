#include "crc32c.h"

#include "bytes.h"
#include "cpu.h"

#define POLYNOMIAL 0x82f63b78u

static uint32_t portable(uint32_t crc, const uint8_t *at, size_t bytes) {
    uint32_t table[4][256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = value >> 1 ^ (value & 1 ? POLYNOMIAL : 0);
        table[0][i] = value;
    }
    for (size_t i = 0; i < 256; i++)
        for (size_t k = 1; k < 4; k++)
            table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xff];
    for (; bytes >= 4; bytes -= 4, at += 4) {
        crc ^= cr_u32(at);
        crc = table[3][crc & 0xff] ^ table[2][crc >> 8 & 0xff] ^ table[1][crc >> 16 & 0xff] ^
              table[0][crc >> 24];
    }
    for (; bytes > 0; bytes--, at++)
        crc = crc >> 8 ^ table[0][(crc ^ *at) & 0xff];
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
#include <nmmintrin.h>

__attribute__((target("sse4.2")))
static uint32_t by_instruction(uint32_t crc, const uint8_t *at, size_t bytes) {
    uint64_t wide = crc;
    for (; bytes >= 8; bytes -= 8, at += 8)
        wide = _mm_crc32_u64(wide, cr_u64(at));
    crc = (uint32_t)wide;
    for (; bytes > 0; bytes--, at++)
        crc = _mm_crc32_u8(crc, *at);
    return crc;
}
#else
#define by_instruction portable
#endif

uint32_t cr_crc32c(uint32_t before, const void *data, size_t bytes) {
    if (bytes == 0)
        return before;
    const uint32_t crc = before ^ 0xffffffffu;
    const uint32_t after = cr_cpu_has_crc32c() ? by_instruction(crc, data, bytes)
                                             : portable(crc, data, bytes);
    return after ^ 0xffffffffu;
}
