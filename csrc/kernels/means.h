/* Running means whose weights add up to 1, and bounds of the errors of means and sums of squares.
 *
 * beta and 1 - beta, each rounded to float, do not add up to 1: the mean of a constant then tends to another
 * number, 1.3 % smaller for a beta of 0.999999.  Means of gradients are
 *
 *     m = keep m + rest g                 rest = 1 - keep, exactly
 *
 * with keep the number nearest to beta: they decay to 0, and are exact for small betas too.  Means of squares, whose
 * beta is closer to 1, are
 *
 *     v = v + rest (g^2 - v)              rest the number nearest to 1 - beta
 *
 * which decays at the rate of beta itself, and whose rounding errors cancel.  For a small beta a small g^2 would be
 * lost beside a large v, so below 1/2 the first form is used.  If g^2 overflows, v becomes infinite and stays infinite,
 * so that the element stops.  With v limited to the largest number, steps would be too large. */

/* The number nearest to beta, but below 1. */
static inline T FN(keep)(double beta)
{
    const T keep = (T)beta;
    return keep < 1 ? keep : 1 - EPSILON / 2;
}

static inline T FN(rest)(double beta)
{
    return 1 - FN(keep)(beta);
}

/* The total weight of the gradients of t steps in a mean of gradients: 1 - the product of the betas, corrected for the
 * rounding of keep.  It is at least the weight of the last gradient. */
static inline double FN(weight_of)(double beta, double product, int64_t t)
{
    const double keep = (double)FN(keep)(beta);
    if (keep == beta || product == 0)
        return 1 - product;
    const double x = (double)t * ((keep - beta) / beta); /* keep^t = beta^t (keep / beta)^t, and that is e^x */
    const double weight = 1 - product * (1 + x * (1 + x * (0.5 + x * (1.0 / 6 + x * (1.0 / 24)))));
    return weight > 1 - keep ? weight : 1 - keep;
}

/* The same for a beta in in->hyper. */
static inline double FN(weight)(const fastopt_inputs *in, const double *hyper)
{
    return FN(weight_of)(*hyper, fastopt_product(in, hyper), in->t);
}

/* The scalars of a mean of squares. */
typedef struct {
    T beta, rest;
    T infinite;
} FN(squares);

static inline FN(squares) FN(squares_of)(double beta)
{
    return (FN(squares)){(T)beta, (T)(1 - beta), (T)INFINITY};
}

/* The mean of squares after one more square. */
static inline T FN(next_mean)(T mean, T square, FN(squares) of)
{
    const T next = of.beta < (T)0.5 ? of.beta * mean + of.rest * square : mean + of.rest * (square - mean);
    return next < of.infinite ? next : of.infinite; /* infinity also for infinity - infinity, which is NaN */
}

/* The largest error of a mean of squares after t steps because numbers below SMALLEST count as 0: a step loses less
 * than 4 SMALLEST, and the loss decays as the mean does.  In a sum of squares nothing decays.  With the root of this
 * bound added to eps, no step is larger than the exact one, and without gradients there is no step. */
static inline double FN(lost_mean)(double beta, int64_t t)
{
    const double steps = 1 / (1 - beta);
    return 4 * (double)SMALLEST * (steps < (double)t ? steps : (double)t);
}

static inline double FN(lost_sum)(int64_t t)
{
    return (double)SMALLEST * (double)t;
}
