/* Sums of squares beyond the range of double. */
#include "norm.h"

double fastopt_scaled(const fastopt_sum *total, int *exponent)
{
    if (total->huge != 0) {
        *exponent = SUM_EXPONENT;
        return total->huge + ldexp(total->sum, -SUM_EXPONENT);
    }
    if (total->tiny != 0 && total->sum == 0) {
        *exponent = -SUM_EXPONENT;
        return total->tiny;
    }
    *exponent = 0;
    return total->sum + ldexp(total->tiny, -SUM_EXPONENT);
}

double fastopt_scaled_root(const fastopt_sum *total, double divisor)
{
    int exponent;
    const double x = fastopt_scaled(total, &exponent);
    return ldexp(sqrt(x / divisor), exponent / 2);
}
