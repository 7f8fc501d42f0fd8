/* Codes of 8 bits, with one float32 scale for each GROUP of elements: sizes are rounded to 128 or 256 levels, dense
 * near 0, so that small elements keep their digits beside large ones.
 *
 * u = |x| / scale
 * code = u up to 2^k; above, the float whose bits are (bits(u) >> k) + ROOT_k
 *
 * The shift takes the 2^k-th root, linearly between powers of two.  ROOT_k is chosen so that 2^k is mapped to 2^k.  So
 * the function is linear between adjacent codes, and random rounding has the right mean.  k = 1 if elements have
 * signs; the code has the sign of its element.  k = 3 if they are never negative (a sign is lost).  Then the code of an
 * element above 0 is at least 1, because a rule may divide by the element.
 *
 * The scale is the size of the largest element divided by the largest level, rounded up to 18 bits.  Levels have at
 * most 6 bits, so that products with the scale are exact.  An element that does not change keeps its code, also with
 * random rounding: u can be wrong in its last place, but the code is rounded to 15 bits after the binary point before
 * random bits are added.
 *
 * Numbers below the smallest normal one count as 0.  NaN makes its group NaN.  Infinity, or a number beyond the largest
 * bfloat16, makes its group infinite. */
#ifndef FASTOPT_CODES_H
#define FASTOPT_CODES_H

#include "bits.h"

enum {
    GROUPS = 8, /* whose scales are computed before their codes */
    ROOT_1 = 0x20000000,
    ROOT_3 = 0x38e00000,
    LARGEST_SCALED = 0x7f7f0000, /* the largest bfloat16 */
};
#define LARGEST_SIGNED      8064.0f   /* the level of 127 */
#define LARGEST_NONNEGATIVE 0x1.fp42f /* the level of 255 */
#define SMALLEST_SIGNED     0x1p-109f /* of scales: subnormals are less than the last of 15 bits behind the point */

/* The float whose nearest integer is the code, from x / scale.  In the bits of a size of at least 2 the first one of
 * the exponent is set, so that the sum with ROOT_1 sets it again after the shift, and clears the next one.  With these
 * two bits a smaller u has a `root` above itself.  Two floats of the same sign are compared as integers. */
static inline float fastopt_signed_code(float u)
{
    const int32_t bits = (int32_t)fastopt_bits(u), root = (bits >> 1 & ~(3 * ROOT_1)) | 2 * ROOT_1;
    return fastopt_float((uint32_t)(bits < root ? bits : root));
}

/* The reverse: the sign and the first bit of the exponent are those of the code, the others those of its shifted bits.
 */
static inline float fastopt_signed_level(int8_t code)
{
    const int32_t bits = (int32_t)fastopt_bits((float)code), shifted = (int32_t)((uint32_t)bits << 1);
    const int32_t power = ((bits ^ shifted) & (int32_t)(SIGN_BIT | 2 * ROOT_1)) ^ shifted;
    return fastopt_float((uint32_t)(bits > power ? bits : power));
}

/* The code of an element that is not negative. */
static inline float fastopt_nonnegative_code(float x, float factor)
{
    const int32_t size = (int32_t)(fastopt_bits(x) & SIZE_BITS), one = 0x3f800000;
    const int32_t u = (int32_t)fastopt_bits(fastopt_float((uint32_t)size) * factor), root = (u >> 3) + ROOT_3;
    const int32_t code = u < root ? u : root;
    return fastopt_float((uint32_t)(code > one ? code : one) & -(uint32_t)(size >= NORMAL));
}

static inline float fastopt_nonnegative_level(uint8_t code)
{
    const uint32_t bits = fastopt_bits((float)code);
    return fastopt_float(code < 8 ? bits : (bits - ROOT_3) << 3);
}

#endif

/* The size of the largest element of a group; NaN is larger than infinity. */
static inline int32_t FN(largest)(const float *restrict x)
{
    int32_t largest = 0;
    for (int i = 0; i < GROUP; i++) {
        const int32_t size = (int32_t)(fastopt_bits(x[i]) & SIZE_BITS);
        largest = size > largest ? size : largest;
    }
    return largest;
}

/* The scale of a group, from the size of its largest element.  Its last 6 of 24 bits are 0, and the largest element is
 * at most the largest level. */
static inline float FN(scale)(int32_t size, int is_signed)
{
    const float exact = fastopt_float((uint32_t)size) / (is_signed ? LARGEST_SIGNED : LARGEST_NONNEGATIVE);
    const int32_t smallest = (int32_t)fastopt_bits(is_signed ? SMALLEST_SIGNED : FLT_MIN);
    int32_t scale = (int32_t)((fastopt_bits(exact) + 63) & ~UINT32_C(63));
    scale = scale > smallest ? scale : smallest;
    scale = size > LARGEST_SCALED ? INFINITE : scale;
    scale = size > INFINITE ? NAN_BITS : scale;
    return fastopt_float(size < NORMAL ? 0 : (uint32_t)scale);
}

/* A code has 15 bits behind the point in its sum with 2^8 or 3 * 2^7, and none in that with 2^23 or 3 * 2^22, of which
 * the last byte is the rounded code. */
static inline void FN(encode_signed)(uint8_t *restrict codes, const float *restrict x, float factor,
                                     const uint32_t *restrict random, int shift)
{
    if (random) {
        for (int i = 0; i < GROUP; i++) {
            const uint32_t code = fastopt_bits(fastopt_signed_code(x[i] * factor) + 0x1.8p8f);
            codes[i] = (uint8_t)(((code + (random[i] >> (shift + 1) & 0x7fff)) >> 15) - 128);
        }
        return;
    }
    for (int i = 0; i < GROUP; i++)
        codes[i] = (uint8_t)fastopt_bits(fastopt_signed_code(x[i] * factor) + 0x1.8p23f);
}

static inline void FN(encode_nonnegative)(uint8_t *restrict codes, const float *restrict x, float factor,
                                          const uint32_t *restrict random, int shift)
{
    if (random) {
        for (int i = 0; i < GROUP; i++) {
            const uint32_t code = fastopt_bits(fastopt_nonnegative_code(x[i], factor) + 0x1p8f);
            codes[i] = (uint8_t)((code + (random[i] >> (shift + 1) & 0x7fff)) >> 15);
        }
        return;
    }
    for (int i = 0; i < GROUP; i++)
        codes[i] = (uint8_t)fastopt_bits(fastopt_nonnegative_code(x[i], factor) + 0x1p23f);
}

/* All codes of a group that is infinite, or NaN, which has no sign. */
NOINLINE static void FN(encode_nonfinite)(uint8_t *restrict codes, const float *restrict x, float scale, int is_signed)
{
    const int largest = is_signed ? 127 : 255, negative = is_signed && scale > 0 ? -127 : largest;
    for (int i = 0; i < GROUP; i++)
        codes[i] = (uint8_t)(fastopt_bits(x[i]) & SIGN_BIT ? negative : largest);
}

/* Whole groups.  All scales of a few groups come before their codes, which would wait for them.  Groups that are not
 * finite are encoded again, in a loop of their own: with a call, the loop of codes would load its constants for each
 * group. */
static inline void FN(encode)(uint8_t *restrict codes, float *restrict scales, const float *restrict x,
                              ptrdiff_t groups, const uint32_t *restrict random, int shift, int is_signed)
{
    for (ptrdiff_t first = 0; first < groups; first += GROUPS) {
        const int count = groups - first < GROUPS ? (int)(groups - first) : GROUPS;
        float factors[GROUPS];
        for (int i = 0; i < count; i++) {
            const float scale = FN(scale)(FN(largest)(x + (first + i) * GROUP), is_signed);
            scales[first + i] = scale;
            factors[i] = 1 / (scale > 0 ? scale : INFINITY);
        }
        for (int i = 0; i < count; i++) {
            const ptrdiff_t begin = (first + i) * GROUP;
            if (is_signed)
                FN(encode_signed)(codes + begin, x + begin, factors[i], random ? random + begin : NULL, shift);
            else
                FN(encode_nonnegative)(codes + begin, x + begin, factors[i], random ? random + begin : NULL, shift);
        }
        for (int i = 0; i < count; i++) {
            const ptrdiff_t begin = (first + i) * GROUP;
            if (!(scales[first + i] < INFINITY))
                FN(encode_nonfinite)(codes + begin, x + begin, scales[first + i], is_signed);
        }
    }
}

/* The same with a loop for each shift, a constant there: after a shift by 16 no mask is needed. */
static inline void FN(encode_by_shift)(uint8_t *restrict codes, float *restrict scales, const float *restrict x,
                                       ptrdiff_t groups, const uint32_t *restrict random, int shift, int is_signed)
{
    if (!random)
        FN(encode)(codes, scales, x, groups, NULL, 0, is_signed);
    else if (shift == 0)
        FN(encode)(codes, scales, x, groups, random, 0, is_signed);
    else
        FN(encode)(codes, scales, x, groups, random, 16, is_signed);
}

/* A group that is not full. */
NOINLINE static void FN(encode_rest)(uint8_t *codes, float *scale, const float *x, int n, const uint32_t *random,
                                     int shift, int is_signed)
{
    float padded[GROUP] = {0};
    uint32_t padded_random[GROUP] = {0};
    uint8_t padded_codes[GROUP];
    memcpy(padded, x, (size_t)n * sizeof *x);
    if (random)
        memcpy(padded_random, random, (size_t)n * sizeof *random);
    FN(encode)(padded_codes, scale, padded, 1, random ? padded_random : NULL, shift, is_signed);
    memcpy(codes, padded_codes, (size_t)n);
}

static inline void FN(store_codes)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                                   const uint32_t *restrict random, int shift, int is_signed)
{
    uint8_t *restrict codes = (uint8_t *)to->data + offset;
    float *restrict scales = (float *)to->rest + offset / GROUP;
    float narrow[GROUPS * GROUP];
    const ptrdiff_t most = sizeof(T) > sizeof(float) ? GROUPS * GROUP : n;
    for (ptrdiff_t begin = 0, count; begin < n; begin += count) {
        const uint32_t *bits = random ? random + begin : NULL;
        const float *values = (const void *)(x + begin);
        count = n - begin < most ? n - begin : most;
        if (sizeof(T) > sizeof(float)) {
            for (ptrdiff_t i = 0; i < count; i++)
                narrow[i] = FN(narrow)(x[begin + i]);
            values = narrow;
        }
        const ptrdiff_t whole = count / GROUP * GROUP;
        FN(encode_by_shift)(codes + begin, scales + begin / GROUP, values, whole / GROUP, bits, shift, is_signed);
        if (whole < count)
            FN(encode_rest)(codes + begin + whole, scales + (begin + whole) / GROUP, values + whole,
                            (int)(count - whole), bits ? bits + whole : NULL, shift, is_signed);
    }
}

static void FN(store_codes_signed)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                                   const uint32_t *restrict random, int shift)
{
    FN(store_codes)(x, to, offset, n, random, shift, 1);
}

static void FN(store_codes_nonnegative)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                                        const uint32_t *restrict random, int shift)
{
    FN(store_codes)(x, to, offset, n, random, shift, 0);
}

/* Whole groups have a loop of their own, whose length the compiler knows. */
#define LOAD_CODES(name, code, level)                                                                                  \
    static void FN(load_codes_##name)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n)      \
    {                                                                                                                  \
        const code *restrict codes = (const code *)from->data + offset;                                                \
        const float *restrict scales = (const float *)from->rest + offset / GROUP;                                     \
        const ptrdiff_t whole = n / GROUP * GROUP;                                                                     \
        for (ptrdiff_t begin = 0; begin < whole; begin += GROUP)                                                       \
            for (int i = 0; i < GROUP; i++)                                                                            \
                out[begin + i] = (T)(level(codes[begin + i]) * scales[begin / GROUP]);                                 \
        for (ptrdiff_t i = whole; i < n; i++)                                                                          \
            out[i] = (T)(level(codes[i]) * scales[whole / GROUP]);                                                     \
    }
LOAD_CODES(signed, int8_t, fastopt_signed_level)
LOAD_CODES(nonnegative, uint8_t, fastopt_nonnegative_level)
#undef LOAD_CODES
