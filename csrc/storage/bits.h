/* The bits of a float32, and float32 numbers from bits. */
#ifndef FASTOPT_BITS_H
#define FASTOPT_BITS_H

#include <stdint.h>
#include <string.h>

enum {
    SIZE_BITS = 0x7fffffff, /* all but the sign */
    INFINITE = 0x7f800000,
    NAN_BITS = 0x7fc00000,
    NORMAL = 0x00800000, /* the smallest normal number */
};
#define SIGN_BIT UINT32_C(0x80000000)

static inline uint32_t fastopt_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float fastopt_float(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
