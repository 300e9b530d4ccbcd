#include "kernels.h"

#include <stdbool.h>
#include <string.h>

#include "cpu.h"

static bool always(void) {
    return true;
}

const Kernels *cr_kernels(const char *name) {
    static const struct {
        const Kernels *kernels;
        bool (*runs)(void);
    } known[] = {
#if defined(CR_HAS_AVX512)
        {&cr_kernels_avx512, cr_cpu_has_avx512},
#endif
#if defined(CR_HAS_AVX2)
        {&cr_kernels_avx2, cr_cpu_has_avx2},
#endif
#if defined(CR_HAS_NEON)
        {&cr_kernels_neon, always},
#endif
        {&cr_kernels_scalar, always},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if ((name == NULL || strcmp(name, known[i].kernels->name) == 0) && known[i].runs())
            return known[i].kernels;
    return NULL;
}
