/* Sums of squares that neither overflow nor underflow. */
#ifndef FASTOPT_NORM_H
#define FASTOPT_NORM_H

#include <math.h>

/* sum + 2^SUM_EXPONENT huge + 2^-SUM_EXPONENT tiny.  huge and tiny have the blocks whose squares overflow or underflow
 * in double. */
enum { SUM_EXPONENT = 1200 };
typedef struct {
    double sum, huge, tiny;
    int underflowed; /* whether the squares of the last block underflowed */
} fastopt_sum;

static inline int fastopt_is_usual(const fastopt_sum *total)
{
    return total->huge + total->tiny == 0; /* neither term is negative */
}

/* x such that the total is 2^exponent x, where exponent is 0, SUM_EXPONENT or -SUM_EXPONENT. */
double fastopt_scaled(const fastopt_sum *total, int *exponent);

/* fastopt_root of any total. */
double fastopt_scaled_root(const fastopt_sum *total, double divisor);

/* sqrt(total / divisor), infinite only if the root itself overflows. */
static inline double fastopt_root(const fastopt_sum *total, double divisor)
{
    return fastopt_is_usual(total) ? sqrt(total->sum / divisor) : fastopt_scaled_root(total, divisor);
}

#endif
