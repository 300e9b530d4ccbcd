/* Groups of packed values to signed bytes, sixteen at a time; for AVX2 and AVX-512. */

typedef struct {
    __m128i low;
    __m128i high;
} Group;

static inline Group unpack_4(const uint8_t *at) {
    const __m128i packed = _mm_loadu_si128((const __m128i *)at);
    const __m128i mask = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
    const __m128i even = _mm_sub_epi8(_mm_and_si128(packed, mask), eight);
    const __m128i odd = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(packed, 4), mask), eight);
    return (Group){_mm_unpacklo_epi8(even, odd), _mm_unpackhi_epi8(even, odd)};
}

/* Of four lanes with three bytes each: six bits to every byte. */
static inline __m128i spread_6(__m128i lanes) {
    const __m128i a = _mm_and_si128(lanes, _mm_set1_epi32(0x3f));
    const __m128i b = _mm_and_si128(_mm_slli_epi32(lanes, 2), _mm_set1_epi32(0x3f00));
    const __m128i c = _mm_and_si128(_mm_slli_epi32(lanes, 4), _mm_set1_epi32(0x3f0000));
    const __m128i d = _mm_and_si128(_mm_slli_epi32(lanes, 6), _mm_set1_epi32(0x3f000000));
    const __m128i all = _mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d));
    return _mm_sub_epi8(all, _mm_set1_epi8(32));
}

static inline Group unpack_6(const uint8_t *at) {
    /* Two loads of sixteen bytes that stay within the group's 24. */
    const __m128i first = _mm_loadu_si128((const __m128i *)at);
    const __m128i second = _mm_loadu_si128((const __m128i *)(at + 8));
    const __m128i low = _mm_shuffle_epi8(
        first, _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
    const __m128i high = _mm_shuffle_epi8(
        second, _mm_setr_epi8(4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1));
    return (Group){spread_6(low), spread_6(high)};
}
