/* How gradients may be stored: a row for each format, with the type that it is read as and its value. */
#ifndef FASTOPT_FORMATS_H
#define FASTOPT_FORMATS_H

#include "../include/fastopt.h"

#include <string.h>

#define FASTOPT_FORMATS(ROW)                                                                                           \
    ROW(FASTOPT_G_FLOAT16, uint16_t, fastopt_half(x))                                                                  \
    ROW(FASTOPT_G_FLOAT32, float, x)                                                                                   \
    ROW(FASTOPT_G_FLOAT64, double, x)

/* Which way a block is copied: from the memory of the caller, or to it. */
typedef enum { LOAD, STORE } fastopt_direction;

/* The value of a float16, exactly, also with subnormals flushed: no step of it has any but those that are 0. */
static inline float fastopt_half(uint16_t half)
{
    const uint32_t twice = (uint32_t)half << 17; /* without its sign */
    const uint32_t as_normal = (twice >> 4) + (UINT32_C(0xe0) << 23), as_subnormal = (twice >> 17) | UINT32_C(126)
                                                                                                         << 23;
    float normal, subnormal, value;
    memcpy(&normal, &as_normal, sizeof normal);
    memcpy(&subnormal, &as_subnormal, sizeof subnormal);
    normal *= 0x1p-112f; /* infinity and NaN stay */
    subnormal -= 0.5f;
    uint32_t bits, bits_of_subnormal;
    memcpy(&bits, &normal, sizeof bits);
    memcpy(&bits_of_subnormal, &subnormal, sizeof bits_of_subnormal);
    bits = (twice < UINT32_C(1) << 27 ? bits_of_subnormal : bits) | (uint32_t)(half & 0x8000) << 16;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The bytes of an element of a gradient in another format than its parameter. */
static inline size_t fastopt_format_size(fastopt_format format)
{
    switch (format) {
#define SIZE(name, type, value)                                                                                        \
    case name:                                                                                                         \
        return sizeof(type);
        FASTOPT_FORMATS(SIZE)
#undef SIZE
    default:
        return 0;
    }
}

#endif
