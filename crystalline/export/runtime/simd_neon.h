/* Four numbers a vector: NEON of 64-bit ARM. */
#include <arm_neon.h>

typedef float32x4_t Vector;
#define WIDTH 4
#define KERNELS cr_kernels_neon
#define KERNELS_NAME "neon"

static inline Vector v_set(float x) { return vdupq_n_f32(x); }
static inline Vector v_load(const float *at) { return vld1q_f32(at); }
static inline void v_store(float *at, Vector a) { vst1q_f32(at, a); }
static inline Vector v_add(Vector a, Vector b) { return vaddq_f32(a, b); }
static inline Vector v_sub(Vector a, Vector b) { return vsubq_f32(a, b); }
static inline Vector v_mul(Vector a, Vector b) { return vmulq_f32(a, b); }
static inline Vector v_div(Vector a, Vector b) { return vdivq_f32(a, b); }
static inline Vector v_fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
static inline Vector v_sqrt(Vector a) { return vsqrtq_f32(a); }
static inline Vector v_round(Vector a) { return vrndnq_f32(a); }
static inline float v_total(Vector a) { return vaddvq_f32(a); }
static inline float v_most(Vector a) { return vmaxvq_f32(a); }

/* b if a is NaN, as in the other instruction sets. */
static inline Vector v_max(Vector a, Vector b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline Vector v_min(Vector a, Vector b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

static inline Vector v_from_i8(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, sizeof four);
    const int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
}

static inline Vector v_from_i16(const int16_t *at) {
    return vcvtq_f32_s32(vmovl_s16(vld1_s16(at)));
}

static inline Vector v_from_f16(const uint16_t *at) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(at)));
}

static inline float half(uint16_t bits) { return cr_half_to_float(bits); }

static inline Vector v_where_above(Vector a, Vector b) {
    return vbslq_f32(vcgtq_f32(a, b), a, vdupq_n_f32(0.0f));
}

static inline Vector v_power(Vector a) {
    const int32x4_t biased = vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
}

static inline void v_totals(Vector a, Vector b, Vector c, Vector d, float *out) {
    vst1q_f32(out, vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d)));
}

typedef struct {
    int8_t values[GROUP];
} Group;

static inline Group unpack_4(const uint8_t *at) {
    Group group;
    const uint8x16_t packed = vld1q_u8(at);
    const int8x16_t eight = vdupq_n_s8(8);
    const int8x16_t even =
        vsubq_s8(vreinterpretq_s8_u8(vandq_u8(packed, vdupq_n_u8(15))), eight);
    const int8x16_t odd = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(packed, 4)), eight);
    vst1q_s8(group.values, vzip1q_s8(even, odd));
    vst1q_s8(group.values + 16, vzip2q_s8(even, odd));
    return group;
}

static inline Group unpack_6(const uint8_t *at) {
    Group group;
    const uint8x8x3_t three = vld3_u8(at);  /* first, second, third bytes of the eight triples */
    const uint8x8_t mask = vdup_n_u8(63);
    const int8x8_t offset = vdup_n_s8(32);
    const uint8x8_t second = vorr_u8(vshr_n_u8(three.val[0], 6), vshl_n_u8(three.val[1], 2));
    const uint8x8_t third = vorr_u8(vshr_n_u8(three.val[1], 4), vshl_n_u8(three.val[2], 4));
    const int8x8x4_t four = {{
        vsub_s8(vreinterpret_s8_u8(vand_u8(three.val[0], mask)), offset),
        vsub_s8(vreinterpret_s8_u8(vand_u8(second, mask)), offset),
        vsub_s8(vreinterpret_s8_u8(vand_u8(third, mask)), offset),
        vsub_s8(vreinterpret_s8_u8(vshr_n_u8(three.val[2], 2)), offset),
    }};
    vst4_s8(group.values, four);
    return group;
}

/* Values `WIDTH k` on of a group. */
static inline Vector v_from_group(Group group, size_t k) {
    return v_from_i8(group.values + WIDTH * k);
}
