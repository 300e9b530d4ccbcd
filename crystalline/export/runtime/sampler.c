/* Draws a token: temperature first, then top-k, then top-p, then min-p, as `crystalline.sampling`. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "crystal.h"
#include "file.h"
#include "kernels.h"

#define BLOCK 64

typedef struct {
    float share;
    int32_t id;
} Candidate;

/* xoshiro256**, seeded by splitmix64. */
static uint64_t rotate(uint64_t x, int by) {
    return x << by | x >> (64 - by);
}

static uint64_t next(uint64_t *state) {
    const uint64_t result = rotate(state[1] * 5, 7) * 9, shifted = state[1] << 17;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = rotate(state[3], 45);
    return result;
}

/* In [0, 1). */
static double uniform(CrystalSampler *sampler) {
    return (double)(next(sampler->state) >> 11) * 0x1p-53;
}

void crystal_sampler_start(CrystalSampler *sampler, uint64_t seed) {
    *sampler = (CrystalSampler){.temperature = 1.0f, .top_p = 1.0f};
    for (int i = 0; i < 4; i++) {
        uint64_t mixed = seed += 0x9e3779b97f4a7c15u;
        mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9u;
        mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111ebu;
        sampler->state[i] = mixed ^ mixed >> 31;
    }
}

void crystal_sampler_free(CrystalSampler *sampler) {
    cr_release(sampler->scratch);
    sampler->scratch = NULL;
    sampler->room = 0;
}

static size_t likeliest(const float *logits, size_t count) {
    size_t best = 0;
    float most = logits[0];
    for (size_t i = 1; i < count; i++)
        if (logits[i] > most) {
            best = i;
            most = logits[i];
        }
    return best;
}

/* Larger shares first, of equal ones the lower id. */
static int by_share(const void *a, const void *b) {
    const Candidate *left = a, *right = b;
    if (left->share != right->share)
        return left->share < right->share ? 1 : -1;
    return (left->id > right->id) - (left->id < right->id);
}

static void swap(Candidate *a, Candidate *b) {
    const Candidate kept = *a;
    *a = *b;
    *b = kept;
}

/* Moves the first of a heap, which has the last of the order on top, to where it belongs. */
static void sink(Candidate *heap, size_t count) {
    for (size_t at = 0;;) {
        size_t last = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2; child++)
            if (child < count && by_share(&heap[child], &heap[last]) > 0)
                last = child;
        if (last == at)
            return;
        swap(&heap[at], &heap[last]);
        at = last;
    }
}

/* The `wanted` largest shares of at least `least`, in any order. */
static size_t collect_most(
    const float *shares, size_t count, float least, size_t wanted, Candidate *heap) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        if (!(shares[i] >= least) || (found == wanted && shares[i] <= heap[0].share))
            continue;
        const Candidate own = {shares[i], (int32_t)i};
        if (found == wanted) {
            heap[0] = own;
            sink(heap, found);
            continue;
        }
        size_t at = found++;
        for (heap[at] = own; at > 0 && by_share(&heap[at], &heap[(at - 1) / 2]) > 0;
             at = (at - 1) / 2)
            swap(&heap[at], &heap[(at - 1) / 2]);
    }
    return found;
}

/* Those of at least `least`, by id. */
static size_t collect(const float *shares, size_t count, float least, Candidate *all) {
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        all[found] = (Candidate){shares[i], (int32_t)i};
        found += shares[i] >= least;
    }
    return found;
}

static double sum_of(const Candidate *all, size_t count) {
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)all[i].share;
    return sum;
}

/* What the options leave, of shares whose largest is 1 and whose sum is `total`. */
static size_t keep(
    const CrystalSampler *sampler, const float *shares, size_t count, double total,
    Candidate *all) {
    const double top_p = (double)sampler->top_p;
    size_t left;
    if (sampler->top_k > 0 && sampler->top_k < count) {
        left = collect_most(shares, count, 0.0f, sampler->top_k, all);
        total = sum_of(all, left);
    } else {
        /* With less than its part of what top-p leaves out, a token stands behind its end; and one
         * that min-p leaves out stands behind all that it keeps. */
        const float part = (float)((1.0 - top_p) / (double)count * total * 0.999);
        left = collect(shares, count, part > sampler->min_p ? part : sampler->min_p, all);
    }
    if (top_p < 1.0) {
        qsort(all, left, sizeof *all, by_share);
        double before = 0;
        const size_t most = left;
        for (left = 0; left < most && before < top_p * total; left++)
            before += (double)all[left].share;
    }
    const size_t most = left;
    left = 0;
    for (size_t i = 0; i < most; i++)
        if (all[i].share >= sampler->min_p)
            all[left++] = all[i];
    return left;
}

static int32_t draw_candidate(CrystalSampler *sampler, const Candidate *all, size_t count) {
    double rest = uniform(sampler) * sum_of(all, count);
    for (size_t i = 0; i + 1 < count; i++) {
        rest -= (double)all[i].share;
        if (rest < 0)
            return all[i].id;
    }
    return all[count - 1].id;
}

/* From all, whose sum is `total`: block by block, so that few sums depend on each other. */
static int32_t draw(CrystalSampler *sampler, const float *shares, size_t count, double total) {
    double rest = uniform(sampler) * total;
    size_t at = 0;
    for (; at + BLOCK < count; at += BLOCK) {
        float sums[8] = {0};
        for (size_t i = 0; i < BLOCK; i += 8)
            for (size_t k = 0; k < 8; k++)
                sums[k] += shares[at + i + k];
        const double block = (double)((sums[0] + sums[1]) + (sums[2] + sums[3])) +
                             (double)((sums[4] + sums[5]) + (sums[6] + sums[7]));
        if (rest < block)
            break;
        rest -= block;
    }
    for (; at + 1 < count; at++) {
        rest -= (double)shares[at];
        if (rest < 0)
            break;
    }
    return (int32_t)at;
}

static bool make_room(CrystalSampler *sampler, size_t count) {
    if (sampler->room >= count)
        return true;
    crystal_sampler_free(sampler);
    sampler->scratch = cr_allocate(count + 1, sizeof(Candidate) + sizeof(float));
    sampler->room = sampler->scratch == NULL ? 0 : count;
    return sampler->scratch != NULL;
}

int32_t crystal_sample(CrystalSampler *sampler, const float *logits, size_t count) {
    const size_t best = likeliest(logits, count);
    if (!(sampler->temperature > 0.0f) || !isfinite(logits[best]))
        return (int32_t)best;
    if (!make_room(sampler, count))
        return -1;
    Candidate *all = sampler->scratch;
    float *shares = (float *)(all + count + 1);
    memcpy(shares, logits, count * sizeof(float));
    const double total = (double)cr_kernels(NULL)->exponentials(
        shares, count, logits[best], 1.0f / sampler->temperature);
    if (sampler->top_k == 0 && !(sampler->top_p < 1.0f) && !(sampler->min_p > 0.0f))
        return draw(sampler, shares, count, total);
    const size_t left = keep(sampler, shares, count, total, all);
    return left == 0 ? (int32_t)best : draw_candidate(sampler, all, left);
}
