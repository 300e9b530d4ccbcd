#include "kernels.h"

#if defined(CR_HAS_AVX512)
#include <immintrin.h>
#include <math.h>
#include <string.h>

#define INSTRUCTIONS "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(INSTRUCTIONS))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#endif

#include "simd_avx512.h"

#include "kernels_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
typedef int cr_no_avx512;   /* a file must hold something */
#endif
