/* Powers of elements with the same bits everywhere, made of products, sums and shifts, so that loops vectorise. */

static inline BITS FN(bits_of)(T x)
{
    BITS bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline T FN(of_bits)(BITS bits)
{
    T x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The cube root of x >= 0, to 1.5 ulp.  r is within 8 % of 1 / cbrt(x): its exponent is minus a third of the exponent
 * of x.  With e = 1 - x r^3 the exact numbers are
 *
 *     1 / cbrt(x) = r (1 - e)^(-1/3) = r (1 + e/3 + 2/9 e^2 + ...)
 *     cbrt(x) = y (1 - e)^(-2/3) = y (1 + 2/3 e + 5/9 e^2 + ...),       y = x r^2
 *
 * and the omitted terms are of the order of e^3.  The root of 0 is 0, of infinity infinity, of NaN NaN. */
static inline T FN(cube_root)(T x)
{
    const int is_float = sizeof(T) == sizeof(float);
    const BITS bits = FN(bits_of)(x);
    BITS third = (bits >> 2) + (bits >> 4);
    third += third >> 4;
    third += third >> 8; /* to a relative error of 2^-16, since not every instruction set divides vectors of integers */
    T r = FN(of_bits)((BITS)(((is_float ? 127 : 1023) * (4.0 / 3) - 0.06) / (double)EPSILON) - third);
    for (int i = is_float; i < 2; i++) {
        const T e = 1 - x * r * r * r;
        r += r * (e * ((T)(1.0 / 3) + (T)(2.0 / 9) * e));
    }
    const T y = x * r * r, e = 1 - y * r;
    return y + y * (e * ((T)(2.0 / 3) + (T)(5.0 / 9) * e));
}

/* x^a for x >= 0 and 0 <= a <= 1, to 2 ulp.  The exponent is a + a_low, where a has so few digits that its product with
 * the exponent of x is exact; at_0 is 0^a.  Infinity and NaN stay.
 *
 * x = 2^e m,                                       sqrt(1/2) <= m < sqrt(2)
 * log2(m) = 2 / ln(2) (s + s^3 / 3 + s^5 / 5 + ...),  s = (m - 1) / (m + 1)
 * x^a = 2^k 2^f,                                   k = a log2(x) to the nearest integer, f the rest */
static inline T FN(power)(T x, T a, T a_low, T at_0)
{
    const int is_float = sizeof(T) == sizeof(float), digits = is_float ? 23 : 52, bias = is_float ? 127 : 1023;
    const T to_integers = (T)1.5 / EPSILON; /* adding it rounds to an integer, which is then in the last bits */
    const BITS bits = FN(bits_of)(x);
    const BITS biased = (bits + (BITS)(0.5858 / (double)EPSILON)) >> digits;
    const T e = FN(of_bits)(biased + ((BITS)(bias + digits) << digits)) - (1 / EPSILON + (T)bias);
    const T m = FN(of_bits)(bits - (biased << digits) + ((BITS)bias << digits));
    const T s = (m - 1) / (m + 1), square = s * s;
    T series = (T)(1.0 / 21);
    for (int i = 19; i > 0; i -= 2)
        series = series * square + (T)1 / (T)i;
    const T whole = a * e, rest = a_low * e + (a + a_low) * ((T)2.8853900817779268 * (s * series));
    const T shifted = (whole + rest) + to_integers;
    const T f = (whole - (shifted - to_integers)) + rest, y = f * (T)0.69314718055994531;
    T exponential = 1;
    for (int i = 13; i > 0; i--)
        exponential = 1 + exponential * y * ((T)1 / (T)i);
    const T result = FN(of_bits)(FN(bits_of)(exponential) + (FN(bits_of)(shifted) << digits));
    return x < SMALLEST ? at_0 : x <= LARGEST ? result : x;
}
