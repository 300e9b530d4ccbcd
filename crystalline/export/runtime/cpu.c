#include "cpu.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <stdint.h>

#define BIT(register_, number_) (((register_) >> (number_) & 1u) != 0)

typedef struct {
    uint32_t a, b, c, d;
} Registers;

/* Zeros where the processor has no such leaf. */
static Registers leaf(uint32_t number) {
    Registers found = {0, 0, 0, 0};
    __get_cpuid_count(number, 0, &found.a, &found.b, &found.c, &found.d);
    return found;
}

/* Whether the system saves these parts of the state when it changes threads. */
static bool saves(uint32_t parts) {
    uint32_t low, high;
    if (!BIT(leaf(1).c, 27))    /* OSXSAVE */
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & parts) == parts;
}

bool cr_cpu_has_crc32c(void) {
    return BIT(leaf(1).c, 20);
}

bool cr_cpu_has_avx2(void) {
    const Registers first = leaf(1);
    return BIT(first.c, 12) && BIT(first.c, 29) && BIT(leaf(7).b, 5) && saves(0x6);
}

bool cr_cpu_has_avx512(void) {
    const uint32_t b = leaf(7).b;
    return BIT(b, 16) && BIT(b, 17) && BIT(b, 30) && BIT(b, 31) && cr_cpu_has_avx2() &&
           saves(0xe6);
}
#else
bool cr_cpu_has_crc32c(void) {
    return false;
}

bool cr_cpu_has_avx2(void) {
    return false;
}

bool cr_cpu_has_avx512(void) {
    return false;
}
#endif
