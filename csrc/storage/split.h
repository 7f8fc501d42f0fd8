/* A float32 as a bfloat16 and, in the rest, more of its bits: 16, which is exact, or 8, which is a float of 24 bits.
 *
 * 16: upper = (bits + 2^15) >> 16, lower = bits - (upper << 16)
 * 8:  b = bits >> 8, rounded; upper = (b + 2^7) >> 8, lower = b - (upper << 8)
 *
 * So the bfloat16 is the nearest one, or the larger one of two that are equally near, and both parts add up to the
 * bits.  Every NaN is stored as the same NaN, which the carry of the rounding leaves a NaN. */
#ifndef FASTOPT_SPLIT_H
#define FASTOPT_SPLIT_H

#include "bits.h"

static inline uint32_t fastopt_split_bits(float x)
{
    return x != x ? NAN_BITS : fastopt_bits(x);
}

#endif

static void FN(load_split16)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n)
{
    const uint16_t *restrict upper = (const uint16_t *)from->data + offset;
    const int16_t *restrict lower = (const int16_t *)from->rest + offset;
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = (T)fastopt_float(((uint32_t)upper[i] << 16) + (uint32_t)lower[i]);
}

static void FN(store_split16)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                              const uint32_t *restrict random, int shift)
{
    uint16_t *restrict upper = (uint16_t *)to->data + offset;
    int16_t *restrict lower = (int16_t *)to->rest + offset;
    (void)random, (void)shift; /* nothing is rounded */
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint32_t bits = fastopt_split_bits(FN(narrow)(x[i]));
        upper[i] = (uint16_t)((bits + 0x8000) >> 16);
        lower[i] = (int16_t)bits;
    }
}

static void FN(load_split8)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n)
{
    const uint16_t *restrict upper = (const uint16_t *)from->data + offset;
    const int8_t *restrict lower = (const int8_t *)from->rest + offset;
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = (T)fastopt_float(((uint32_t)upper[i] << 16) + ((uint32_t)lower[i] << 8));
}

static void FN(store_split8)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                             const uint32_t *restrict random, int shift)
{
    uint16_t *restrict upper = (uint16_t *)to->data + offset;
    int8_t *restrict lower = (int8_t *)to->rest + offset;
    if (random) {
        for (ptrdiff_t i = 0; i < n; i++) {
            const uint32_t b = (fastopt_split_bits(FN(narrow)(x[i])) + (random[i] >> (shift + 8) & 0xff)) >> 8;
            upper[i] = (uint16_t)((b + 0x80) >> 8);
            lower[i] = (int8_t)b;
        }
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        const uint32_t bits = fastopt_split_bits(FN(narrow)(x[i])), b = (bits + 0x7f + (bits >> 8 & 1)) >> 8;
        upper[i] = (uint16_t)((b + 0x80) >> 8);
        lower[i] = (int8_t)b;
    }
}
