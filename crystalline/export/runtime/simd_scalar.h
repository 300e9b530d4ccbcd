/* Vectors of one number: the reference, and what machines without a known instruction set use. */
typedef float Vector;
#define WIDTH 1
#define KERNELS cr_kernels_scalar
#define KERNELS_NAME "scalar"

static inline Vector v_set(float x) { return x; }
static inline Vector v_load(const float *at) { return *at; }
static inline void v_store(float *at, Vector a) { *at = a; }
static inline Vector v_add(Vector a, Vector b) { return a + b; }
static inline Vector v_sub(Vector a, Vector b) { return a - b; }
static inline Vector v_mul(Vector a, Vector b) { return a * b; }
static inline Vector v_div(Vector a, Vector b) { return a / b; }
static inline Vector v_fma(Vector a, Vector b, Vector c) { return a * b + c; }
static inline Vector v_max(Vector a, Vector b) { return a > b ? a : b; }    /* b if a is NaN */
static inline Vector v_min(Vector a, Vector b) { return a < b ? a : b; }
static inline Vector v_sqrt(Vector a) { return sqrtf(a); }
static inline Vector v_round(Vector a) { return rintf(a); }
static inline float v_total(Vector a) { return a; }
static inline float v_most(Vector a) { return a; }
static inline Vector v_from_i8(const int8_t *at) { return (float)*at; }
static inline Vector v_from_i16(const int16_t *at) { return (float)*at; }
static inline Vector v_from_f16(const uint16_t *at) { return cr_half_to_float(*at); }
static inline float half(uint16_t bits) { return cr_half_to_float(bits); }

/* a where it is above b, else 0. */
static inline Vector v_where_above(Vector a, Vector b) { return a > b ? a : 0.0f; }

/* 2^a of whole numbers from -126 to 127. */
static inline Vector v_power(Vector a) {
    const uint32_t bits = (uint32_t)((int32_t)a + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline void v_totals(Vector a, Vector b, Vector c, Vector d, float *out) {
    out[0] = a;
    out[1] = b;
    out[2] = c;
    out[3] = d;
}

typedef struct {
    int8_t values[GROUP];
} Group;

static inline Group unpack_4(const uint8_t *at) {
    Group group;
    for (size_t i = 0; i < GROUP / 2; i++) {
        group.values[2 * i] = (int8_t)((at[i] & 15) - 8);
        group.values[2 * i + 1] = (int8_t)((at[i] >> 4) - 8);
    }
    return group;
}

static inline Group unpack_6(const uint8_t *at) {
    Group group;
    for (size_t i = 0; i < GROUP / 4; i++) {
        const uint32_t three =
            at[3 * i] | (uint32_t)at[3 * i + 1] << 8 | (uint32_t)at[3 * i + 2] << 16;
        for (size_t k = 0; k < 4; k++)
            group.values[4 * i + k] = (int8_t)((int)(three >> 6 * k & 63) - 32);
    }
    return group;
}

/* Value k of a group. */
static inline Vector v_from_group(Group group, size_t k) { return (float)group.values[k]; }
