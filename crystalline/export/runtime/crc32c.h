/* CRC-32C (Castagnoli), by the processor's own instruction where it has one. */
#ifndef CRYSTAL_CRC32C_H
#define CRYSTAL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Of `bytes` that follow others whose value is `before`; begin with 0. */
uint32_t cr_crc32c(uint32_t before, const void *data, size_t bytes);

#endif
