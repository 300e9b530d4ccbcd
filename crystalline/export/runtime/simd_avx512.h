/* Sixteen numbers a vector: AVX-512 F, BW, DQ, VL. */

typedef __m512 Vector;
#define WIDTH 16
#define KERNELS cr_kernels_avx512
#define KERNELS_NAME "avx512"

static inline Vector v_set(float x) { return _mm512_set1_ps(x); }
static inline Vector v_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void v_store(float *at, Vector a) { _mm512_storeu_ps(at, a); }
static inline Vector v_add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
static inline Vector v_sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
static inline Vector v_mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
static inline Vector v_div(Vector a, Vector b) { return _mm512_div_ps(a, b); }
static inline Vector v_fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
static inline Vector v_max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
static inline Vector v_min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
static inline Vector v_sqrt(Vector a) { return _mm512_sqrt_ps(a); }
static inline Vector v_round(Vector a) { return _mm512_roundscale_ps(a, 8); }
static inline float v_total(Vector a) { return _mm512_reduce_add_ps(a); }
static inline float v_most(Vector a) { return _mm512_reduce_max_ps(a); }

static inline Vector v_from_i8(const int8_t *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)at)));
}

static inline Vector v_from_i16(const int16_t *at) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)at)));
}

static inline Vector v_from_f16(const uint16_t *at) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

static inline float half(uint16_t bits) { return _cvtsh_ss(bits); }

static inline Vector v_where_above(Vector a, Vector b) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), a);
}

static inline Vector v_power(Vector a) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}

static inline __m256 v_halves(Vector a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

static inline void v_totals(Vector a, Vector b, Vector c, Vector d, float *out) {
    const __m256 sums = _mm256_hadd_ps(
        _mm256_hadd_ps(v_halves(a), v_halves(b)), _mm256_hadd_ps(v_halves(c), v_halves(d)));
    _mm_storeu_ps(
        out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
}

#include "unpack_sse.h"

/* Values `WIDTH k` on of a group. */
static inline Vector v_from_group(Group group, size_t k) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(k == 0 ? group.low : group.high));
}
