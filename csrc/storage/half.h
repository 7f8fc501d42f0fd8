/* float16.  Its subnormals are normal numbers of float32: they keep their values even if the CPU flushes subnormals. */
#ifndef FASTOPT_HALF_H
#define FASTOPT_HALF_H

#include "bits.h"

enum {
    HALF_NORMAL = 0x38800000, /* 2^-14, the smallest normal float16, as a float32 */
    HALF_BIAS = 0x38000000,   /* between the exponents of the two formats */
};

static inline float fastopt_from_half(uint16_t half)
{
    const int32_t size = half & 0x7fff;
    const float normal = fastopt_float((uint32_t)(size << 13) + 2 * (uint32_t)HALF_BIAS) * 0x1p-112f;
    const float subnormal =
        fastopt_float((uint32_t)size | UINT32_C(126) << 23) - 0.5f; /* above, infinity and NaN stay */
    const uint32_t bits = size < 0x400 ? fastopt_bits(subnormal) : fastopt_bits(normal);
    return fastopt_float(bits | (uint32_t)(half & 0x8000) << 16);
}

/* A float16 from its size, which may be beyond the largest one, and from the x that it is of. */
static inline uint16_t fastopt_half_of(int32_t half, float x)
{
    half = half > 0x7c00 ? 0x7c00 : half;
    half = x != x ? 0x7e00 : half;
    return (uint16_t)((uint32_t)half | (fastopt_bits(x) >> 16 & 0x8000));
}

/* To nearest, halfway to even.  The sum of a subnormal float16 and 1/2 rounds at its last place. */
static inline uint16_t fastopt_nearest_half(float x)
{
    const int32_t size = (int32_t)(fastopt_bits(x) & SIZE_BITS);
    const int32_t normal = (size - HALF_BIAS + 0xfff + (size >> 13 & 1)) >> 13;
    const int32_t subnormal = (int32_t)fastopt_bits(fastopt_float((uint32_t)size) + 0.5f) - (126 << 23);
    return fastopt_half_of(size < HALF_NORMAL ? subnormal : normal, x);
}

/* To the next number away from 0 where the bits cut off and 13 random ones reach it.  The sum of a subnormal float16
 * and 2^-14 has as many bits behind its last place. */
static inline uint16_t fastopt_random_half(float x, uint32_t random)
{
    const int32_t size = (int32_t)(fastopt_bits(x) & SIZE_BITS);
    const int32_t raised = (int32_t)fastopt_bits(fastopt_float((uint32_t)size) + 0x1p-14f) - (1 << 23);
    return fastopt_half_of(((size < HALF_NORMAL ? raised : size) - HALF_BIAS + (int32_t)random) >> 13, x);
}

#endif

static void FN(load_float16)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n)
{
    const char *restrict in = (const char *)from->data + 2 * offset;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = (T)fastopt_from_half(half);
    }
}

static void FN(store_float16)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                              const uint32_t *restrict random, int shift)
{
    uint16_t *restrict out = (uint16_t *)to->data + offset;
    if (random) {
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] = fastopt_random_half(FN(narrow)(x[i]), random[i] >> (shift + 3) & 0x1fff);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = fastopt_nearest_half(FN(narrow)(x[i]));
}
