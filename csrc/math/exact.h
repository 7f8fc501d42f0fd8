/* Powers, exponentials and logarithms with the same bits on every machine: results of libm differ between platforms and
 * CPUs, and a last bit of a bias correction changes every parameter.  They use only IEEE additions, products and
 * quotients. */
#ifndef FASTOPT_EXACT_H
#define FASTOPT_EXACT_H

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__) || defined(_M_FP_FAST)
#error "fastopt must be compiled without -ffast-math and /fp:fast, which change the order of operations and so the bits"
#endif
#if FLT_EVAL_METHOD != 0
#error "fastopt needs float and double to be computed as such; on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

typedef struct {
    double hi, lo; /* hi + lo, |lo| at most half an ulp of hi */
} fastopt_pair;

/* Dekker, "A floating-point technique for extending the available precision", 1971. */
static inline fastopt_pair fastopt_times(fastopt_pair a, fastopt_pair b)
{
    const double split = 134217729.0; /* 2^27 + 1 */
    const double as = split * a.hi, bs = split * b.hi;
    const double ah = as - (as - a.hi), bh = bs - (bs - b.hi);
    const double al = a.hi - ah, bl = b.hi - bh;
    const double hi = a.hi * b.hi;
    const double lo = (((ah * bh - hi) + ah * bl + al * bh) + al * bl) + (a.hi * b.lo + a.lo * b.hi);
    const double sum = hi + lo;
    return (fastopt_pair){sum, lo - (sum - hi)};
}

/* 2^100 x for a small x, also a subnormal one while subnormals are flushed. */
static inline double fastopt_times_2_100(double x)
{
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    const int64_t size = bits & INT64_MAX;
    const double raised = size >> 52 ? fabs(x) * 0x1p100 : (double)size * 0x1p-974;
    return bits < 0 ? -raised : raised;
}

/* b^n for 0 <= b <= 1 and n >= 0.  Correctly rounded, except in about one of 2^40 cases. */
double fastopt_power(double b, int64_t n);

/* b^n for 0 <= b <= 1 and n >= 0, to a few units in the last place, fast for any n. */
static inline double fastopt_rough_power(double b, int64_t n)
{
    double power = 1;
    for (; n; n >>= 1, b *= b)
        if (n & 1)
            power *= b;
    return power;
}

/* exp(x), to a few units in the last place: exp(x) = 2^k exp(r) with |r| <= ln(2)/2, Taylor for exp(r). */
static inline double fastopt_exp(double x)
{
    if (x < -745)
        return 0;
    if (x > 709.782)
        return INFINITY;
    const double k = floor(x * 1.4426950408889634 + 0.5);
    const double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10; /* ln 2 in two parts */
    double sum = 1;
    for (int i = 14; i > 0; i--)
        sum = 1 + sum * r / i;
    return ldexp(sum, (int)k);
}

/* log(x) for finite x > 0, to a few units in the last place: x = 2^e y with y near 1, and
 * log(y) = 2 (s + s^3/3 + s^5/5 + ...) with s = (y - 1) / (y + 1). */
static inline double fastopt_log(double x)
{
    int e;
    double y = frexp(x, &e);
    if (y < 0.70710678118654757) {
        y *= 2;
        e--;
    }
    const double s = (y - 1) / (y + 1), square = s * s;
    double sum = 0;
    for (int i = 25; i > 0; i -= 2)
        sum = sum * square + 1.0 / i;
    return e * 6.93147180369123816490e-01 + (2 * s * sum + e * 1.90821492927058770002e-10);
}

/* x^y for x >= 0 (infinity and NaN count as the largest number) and finite y >= 0, with 0^0 = 1.  The rounding error of
 * y log(x) affects the last digits. */
static inline double fastopt_pow(double x, double y)
{
    return x == 0 ? y == 0 : fastopt_exp(y * fastopt_log(x < DBL_MAX ? x : DBL_MAX));
}

#endif
