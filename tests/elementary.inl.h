/* For one T: the functions of elements that rules of one's own have, in C. */
#include "kernels/powers.h"

static T FN(scaled)(T x, T shifted)
{
    return FN(of_bits)(FN(bits_of)(x) + (FN(bits_of)(shifted) << DIGITS));
}

static T FN(exponential)(T y, int terms)
{
    T sum = 1;
    for (int i = terms; i > 0; i--)
        sum = 1 + sum * y * ((T)1 / (T)i);
    return sum;
}

static T FN(rest)(T x, T k)
{
    return (x - k * LN_2_HIGH) - k * LN_2_LOW;
}

static T FN(exp)(T x, T unused)
{
    const T shifted = x * (T)1.4426950408889634 + (T)1.5 / EPSILON;
    (void)unused;
    if (x != x)
        return x;
    if (x > LAST_EXP)
        return (T)INFINITY;
    return x < FIRST_EXP ? 0 : FN(scaled)(FN(exponential)(FN(rest)(x, shifted - (T)1.5 / EPSILON), TERMS), shifted);
}

static T FN(log)(T x, T unused)
{
    (void)unused;
    if (x < SMALLEST)
        return x > -SMALLEST ? -(T)INFINITY : (T)NAN;
    if (!(x <= LARGEST))
        return x;
    int e;
    T m = (T)frexp((double)x, &e);
    if (FN(bits_of)(m) - FN(bits_of)((T)0.5) < (BITS)(1 / EPSILON) - (BITS)(0.5858 / (double)EPSILON)) {
        m *= 2;
        e--;
    }
    const T s = (m - 1) / (m + 1), square = s * s;
    T series = (T)(1.0 / 21);
    for (int i = 19; i > 0; i -= 2)
        series = series * square + (T)1 / (T)i;
    return (T)e * LN_2_HIGH + (2 * (s * series) + (T)e * LN_2_LOW);
}

static T FN(tanh)(T x, T unused)
{
    const T size = x < 0 ? -x : x, z = 2 * (size < LARGEST_SIZE ? size : LARGEST_SIZE);
    const T shifted = z * (T)1.4426950408889634 + (T)1.5 / EPSILON, r = FN(rest)(z, shifted - (T)1.5 / EPSILON);
    const T power = FN(scaled)(1, shifted);
    T growth = 1;
    (void)unused;
    for (int i = TERMS; i > 1; i--)
        growth = 1 + growth * r * ((T)1 / (T)i);
    const T less_1 = (power - 1) + power * (r * growth), result = less_1 / (less_1 + 2);
    return x > 0 ? result : x < 0 ? -result : x;
}

/* For y in [0, 1], as the rule ftrl_power calls it. */
static T FN(pow)(T x, T y)
{
    const double high = floor((double)y / UNIT) * UNIT;
    return FN(power)(x, (T)high, (T)((double)y - high), y == 0);
}
