/* The bits after 100 steps, as a hash: the C side of hashes.py, which writes the jobs that this reads.
 *
 * One job per line: rule, bits of the dtype, elements, rows of a matrix or 0, threads, what the state starts from, L2
 * decay, decoupled decay, maximize, hyperparameters.  The data are made of integers and powers of two, so that no
 * rounding and no library has a say in them. */
#include "fastopt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 100, GRADIENTS = 10 };

/* Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t mix(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* 24 bits of mantissa at one of 24 scales; of 16 elements one so small that its square is below the smallest number,
 * and one subnormal. */
static void fill(void *out, fastopt_dtype dtype, uint64_t stream, ptrdiff_t n)
{
    const int single = dtype == FASTOPT_FLOAT32;
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint64_t z = mix(stream << 32 | (uint64_t)i);
        const double mantissa = (double)((int64_t)(z >> 40) - (1 << 23));
        double x = mantissa * 0x1p-23;
        for (uint64_t scale = (z >> 8) % 24; scale; scale--)
            x *= 0.5;
        if (i % 16 == 3)
            x *= single ? 0x1p-60 : 0x1p-480;
        if (i % 16 == 7)
            x = mantissa * (single ? 0x1p-149 : 0x1p-1074);
        if (single)
            ((float *)out)[i] = (float)x;
        else
            ((double *)out)[i] = x;
    }
}

/* A sum over all elements, of the bits of each mixed with its place. */
static uint64_t hash(const void *buffer, fastopt_dtype dtype, uint64_t place, ptrdiff_t n)
{
    uint64_t sum = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint64_t bits = 0;
        if (dtype == FASTOPT_FLOAT32) {
            uint32_t half;
            memcpy(&half, (const float *)buffer + i, sizeof half);
            bits = half;
        } else {
            memcpy(&bits, (const double *)buffer + i, sizeof bits);
        }
        sum += mix(bits ^ mix(place << 40 | (uint64_t)i));
    }
    return sum;
}

static void *allocate(size_t size)
{
    void *memory = calloc(size, 1);
    if (!memory)
        exit(2);
    return memory;
}

/* Each state buffer starts from a number. */
static void run(fastopt_tensor *t, int threads, const double *start)
{
    const size_t item = t->dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double), size = item * (size_t)t->n;
    ptrdiff_t state_size[FASTOPT_MAX_STATE];
    double carry[FASTOPT_MAX_CARRY] = {0};
    void *g[GRADIENTS];
    int buffers = 0;
    t->p = allocate(size);
    t->carry = carry;
    fill(t->p, t->dtype, 0, t->n);
    for (int i = 0; i < GRADIENTS; i++)
        fill(g[i] = allocate(size), t->dtype, (uint64_t)i + 1, t->n);
    for (int s = 0; t->rule->state[s]; s++) {
        state_size[s] = fastopt_state_size(t->rule, s, t->ndim, t->shape);
        t->state[s] = allocate(item * (size_t)state_size[s]);
        for (ptrdiff_t i = 0; i < state_size[s]; i++)
            if (t->dtype == FASTOPT_FLOAT32)
                ((float *)t->state[s])[i] = (float)start[s];
            else
                ((double *)t->state[s])[i] = start[s];
    }

    for (t->step = 1; t->step <= STEPS; t->step++) {
        t->g = g[t->step % GRADIENTS];
        if (fastopt_step(t, 1, threads) != FASTOPT_OK)
            exit(3);
    }

    uint64_t sum = hash(t->p, t->dtype, (uint64_t)buffers++, t->n);
    for (int s = 0; t->rule->state[s]; s++)
        sum += hash(t->state[s], t->dtype, (uint64_t)buffers++, state_size[s]);
    for (int i = 0; t->rule->carry[i]; i++)
        sum += hash(&carry[i], FASTOPT_FLOAT64, (uint64_t)buffers++, 1);
    printf("%016" PRIx64 "\n", sum);

    free(t->p);
    for (int i = 0; i < GRADIENTS; i++)
        free(g[i]);
    for (int s = 0; t->rule->state[s]; s++)
        free(t->state[s]);
}

int main(void)
{
    char rule[64];
    int bits, threads;
    for (;;) {
        double start[FASTOPT_MAX_STATE], hyper[FASTOPT_MAX_HYPER] = {0};
        fastopt_options options = {0};
        long long n, rows; /* as every C library reads them */
        ptrdiff_t shape[2];
        fastopt_tensor t = {.hyper = hyper, .options = &options, .shape = shape};
        if (scanf("%63s %d %lld %lld %d %lf %lf %d", rule, &bits, &n, &rows, &threads, &options.weight_decay,
                  &options.decoupled_decay, &options.maximize) != 8)
            return 0;
        t.ndim = rows ? 2 : 1;
        shape[0] = (ptrdiff_t)(rows ? rows : n);
        shape[1] = (ptrdiff_t)(rows ? n / rows : 1);
        t.n = shape[0] * shape[1];
        t.rule = fastopt_find_rule(rule);
        t.dtype = bits == 32 ? FASTOPT_FLOAT32 : FASTOPT_FLOAT64;
        if (!t.rule)
            return 1;
        for (int i = 0; t.rule->state[i]; i++)
            if (scanf("%lf", &start[i]) != 1)
                return 1;
        for (int i = 0; t.rule->hyper[i]; i++)
            if (scanf("%lf", &hyper[i]) != 1)
                return 1;
        run(&t, threads, start);
    }
}
