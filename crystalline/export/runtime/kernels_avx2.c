#include "kernels.h"

#if defined(CR_HAS_AVX2)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif

#include "simd_avx2.h"

#include "kernels_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int cr_no_avx2;     /* a file must hold something */
#endif
