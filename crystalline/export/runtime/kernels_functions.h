/* Functions of single numbers, a vector at a time; part of kernels_body.h. */

/* e^x within two units in the last place; from -87.3 to 88.3, and at those bounds beyond. */
INLINE Vector v_exp(Vector x) {
    x = v_min(v_max(x, v_set(-87.3f)), v_set(88.3f));
    const Vector n = v_round(v_mul(x, v_set(1.44269504f)));
    Vector r = v_fma(n, v_set(-0.693359375f), x);   /* ln 2 in two parts */
    r = v_fma(n, v_set(2.12194440e-4f), r);
    Vector p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set(1.0f)));
    return v_mul(p, v_power(n));
}

/* The error function as a ratio of polynomials on [-4, 4], within 5e-7. */
INLINE Vector v_erf(Vector x) {
    x = v_min(v_max(x, v_set(-4.0f)), v_set(4.0f));
    const Vector s = v_mul(x, x);
    Vector p = v_set(-2.72614225801306e-10f);
    p = v_fma(p, s, v_set(2.77068142495902e-08f));
    p = v_fma(p, s, v_set(-2.10102402082508e-06f));
    p = v_fma(p, s, v_set(-5.69250639462346e-05f));
    p = v_fma(p, s, v_set(-7.34990630326855e-04f));
    p = v_fma(p, s, v_set(-2.95459980854025e-03f));
    p = v_fma(p, s, v_set(-1.60960333262415e-02f));
    Vector q = v_set(-1.45660718464996e-05f);
    q = v_fma(q, s, v_set(-2.13374055278905e-04f));
    q = v_fma(q, s, v_set(-1.68282697438203e-03f));
    q = v_fma(q, s, v_set(-7.37332916720468e-03f));
    q = v_fma(q, s, v_set(-1.42647390514189e-02f));
    return v_div(v_mul(x, p), q);
}

INLINE Vector gelu(Activation activation, Vector x) {
    const Vector one = v_set(1.0f);
    Vector bent;
    if (activation == ACTIVATION_GELU_ERF) {
        bent = v_erf(v_mul(x, v_set(0.70710678f)));
    } else {
        const Vector cubic = v_fma(v_mul(v_mul(x, x), x), v_set(0.044715f), x);
        const Vector power = v_exp(v_mul(cubic, v_set(2.0f * 0.79788456f)));
        bent = v_sub(one, v_div(v_set(2.0f), v_add(power, one)));   /* tanh */
    }
    return v_mul(v_mul(x, v_set(0.5f)), v_add(one, bent));
}

static void activate(Activation activation, float *x, size_t count) {
    const size_t whole = count - count % WIDTH;
    for (size_t i = 0; i < whole; i += WIDTH)
        v_store(x + i, gelu(activation, v_load(x + i)));
    if (whole == count)
        return;
    float rest[WIDTH] = {0};
    memcpy(rest, x + whole, (count - whole) * sizeof(float));
    v_store(rest, gelu(activation, v_load(rest)));
    memcpy(x + whole, rest, (count - whole) * sizeof(float));
}

static float exponentials(float *x, size_t count, float most, float factor) {
    const size_t whole = count - count % WIDTH;
    const Vector top = v_set(most), by = v_set(factor);
    Vector total = v_set(0);
    for (size_t i = 0; i < whole; i += WIDTH) {
        const Vector power = v_exp(v_mul(v_sub(v_load(x + i), top), by));
        v_store(x + i, power);
        total = v_add(total, power);
    }
    float all = v_total(total);
    if (whole == count)
        return all;
    float rest[WIDTH] = {0};
    memcpy(rest, x + whole, (count - whole) * sizeof(float));
    v_store(rest, v_exp(v_mul(v_sub(v_load(rest), top), by)));
    for (size_t i = whole; i < count; i++)
        all += x[i] = rest[i - whole];
    return all;
}

/* |x|^2 + |p|^2 - 2 x.p loses digits near 0, where it may even be negative. */
INLINE Vector field_logit(
    Vector dot, Vector squared, Vector inverse_tau, Vector log_mass, Vector x_squared) {
    const Vector far = v_fma(dot, v_set(-2.0f), v_add(x_squared, squared));
    const Vector distance = v_sqrt(v_where_above(far, v_set(1e-12f)));
    return v_sub(log_mass, v_mul(distance, inverse_tau));
}

static float field_logits(
    float *dots, const float *squared, const float *inverse_tau, const float *log_mass,
    float x_squared, size_t count) {
    const size_t whole = count - count % WIDTH;
    const Vector own = v_set(x_squared);
    Vector most = v_set(-INFINITY);
    for (size_t i = 0; i < whole; i += WIDTH) {
        const Vector logit = field_logit(
            v_load(dots + i), v_load(squared + i), v_load(inverse_tau + i), v_load(log_mass + i),
            own);
        v_store(dots + i, logit);
        most = v_max(logit, most);
    }
    float top = v_most(most);
    for (size_t i = whole; i < count; i++) {
        const float far = x_squared + squared[i] - 2.0f * dots[i];
        const float distance = far > 1e-12f ? sqrtf(far) : 0.0f;
        dots[i] = log_mass[i] - distance * inverse_tau[i];
        top = dots[i] > top ? dots[i] : top;
    }
    return top;
}
