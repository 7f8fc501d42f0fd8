/* bfloat16: the upper 16 bits of a float32.  All operations are on integers, so that subnormals keep their values. */
#ifndef FASTOPT_BFLOAT16_H
#define FASTOPT_BFLOAT16_H

#include "bits.h"

/* The number whose bits are those of x with `carry` added to the lower half.  Beyond the largest one is infinity. */
static inline uint16_t fastopt_bfloat16(float x, uint32_t carry)
{
    return (uint16_t)(x != x ? NAN_BITS >> 16 : (fastopt_bits(x) + carry) >> 16);
}

/* Halfway between two numbers, the one whose last bit is 0. */
static inline uint16_t fastopt_nearest_bfloat16(float x)
{
    return fastopt_bfloat16(x, 0x7fff + (fastopt_bits(x) >> 16 & 1));
}

static inline float fastopt_from_bfloat16(uint16_t upper)
{
    return fastopt_float((uint32_t)upper << 16);
}

#endif

static void FN(load_bfloat16)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n)
{
    const char *restrict in = (const char *)from->data + 2 * offset;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint16_t upper;
        memcpy(&upper, in + 2 * i, sizeof upper);
        out[i] = (T)fastopt_from_bfloat16(upper);
    }
}

static void FN(store_bfloat16)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                               const uint32_t *restrict random, int shift)
{
    uint16_t *restrict out = (uint16_t *)to->data + offset;
    if (random) {
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] = fastopt_bfloat16(FN(narrow)(x[i]), random[i] >> shift & 0xffff);
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = fastopt_nearest_bfloat16(FN(narrow)(x[i]));
}
