/* The cube root of x >= 0, to 1.5 ulp, with the same bits everywhere: of products and sums, so that loops vectorise.
 *
 * r approaches 1 / cbrt(x) from an exponent that is minus a third of that of x, off by at most 8 %.  With
 * e = 1 - x r^3 the exact numbers are
 *
 *     1 / cbrt(x) = r (1 - e)^(-1/3) = r (1 + e/3 + 2/9 e^2 + ...)
 *     cbrt(x) = y (1 - e)^(-2/3) = y (1 + 2/3 e + 5/9 e^2 + ...),       y = x r^2
 *
 * and what the series leave out is of the order of e^3.  0 and infinity have themselves as root, NaN has NaN. */
static inline T FN(cube_root)(T x)
{
    const int is_float = sizeof(T) == sizeof(float);
    BITS bits;
    T r;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 2) + (bits >> 4);
    bits += bits >> 4;
    bits += bits >> 8; /* a third, but for 2^-16 of it: not every instruction set divides integers in packs */
    bits = (BITS)(((is_float ? 127 : 1023) * (4.0 / 3) - 0.06) / (double)EPSILON) - bits;
    memcpy(&r, &bits, sizeof r);
    for (int i = is_float; i < 2; i++) {
        const T e = 1 - x * r * r * r;
        r += r * (e * ((T)(1.0 / 3) + (T)(2.0 / 9) * e));
    }
    const T y = x * r * r, e = 1 - y * r;
    return y + y * (e * ((T)(2.0 / 3) + (T)(5.0 / 9) * e));
}
