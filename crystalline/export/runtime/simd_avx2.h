/* Eight numbers a vector: AVX2, FMA, F16C. */

typedef __m256 Vector;
#define WIDTH 8
#define KERNELS cr_kernels_avx2
#define KERNELS_NAME "avx2"

static inline Vector v_set(float x) { return _mm256_set1_ps(x); }
static inline Vector v_load(const float *at) { return _mm256_loadu_ps(at); }
static inline void v_store(float *at, Vector a) { _mm256_storeu_ps(at, a); }
static inline Vector v_add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
static inline Vector v_sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
static inline Vector v_mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
static inline Vector v_div(Vector a, Vector b) { return _mm256_div_ps(a, b); }
static inline Vector v_fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
static inline Vector v_max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
static inline Vector v_min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
static inline Vector v_sqrt(Vector a) { return _mm256_sqrt_ps(a); }
static inline Vector v_round(Vector a) { return _mm256_round_ps(a, 8); }

static inline float v_total(Vector a) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline float v_most(Vector a) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

static inline Vector v_from_i8(const int8_t *at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)at)));
}

static inline Vector v_from_i16(const int16_t *at) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)at)));
}

static inline Vector v_from_f16(const uint16_t *at) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
}

static inline float half(uint16_t bits) { return _cvtsh_ss(bits); }

static inline Vector v_where_above(Vector a, Vector b) {
    return _mm256_and_ps(a, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

static inline Vector v_power(Vector a) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(a), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

static inline void v_totals(Vector a, Vector b, Vector c, Vector d, float *out) {
    const Vector sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(
        out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
}

#include "unpack_sse.h"

/* Values `WIDTH k` on of a group. */
static inline Vector v_from_group(Group group, size_t k) {
    __m128i bytes = k < 2 ? group.low : group.high;
    bytes = k % 2 == 0 ? bytes : _mm_srli_si128(bytes, 8);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
