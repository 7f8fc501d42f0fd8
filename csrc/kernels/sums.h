/* Sums over a block, in double.  Separate partial sums (lanes) make them fast, and give the same bits for every
 * instruction set. */
static double FN(sum_lanes)(double *lanes, int width)
{
    for (; width; width /= 2)
        for (int lane = 0; lane < width; lane++)
            lanes[lane] += lanes[lane + width];
    return lanes[0];
}

/* For fewer elements than lanes, lanes that would stay 0 are left out. */
#define SUM(product)                                                                                                   \
    double lanes[LANES];                                                                                               \
    if (n < LANES) {                                                                                                   \
        int width = 1;                                                                                                 \
        while (2 * width < n)                                                                                          \
            width *= 2;                                                                                                \
        for (ptrdiff_t i = 0; i < 2 * width; i++)                                                                      \
            lanes[i] = i < n ? product : 0;                                                                            \
        return FN(sum_lanes)(lanes, width);                                                                            \
    }                                                                                                                  \
    memset(lanes, 0, sizeof lanes);                                                                                    \
    const ptrdiff_t whole = n - n % LANES;                                                                             \
    for (ptrdiff_t first = 0; first < whole; first += LANES)                                                           \
        for (int lane = 0; lane < LANES; lane++) {                                                                     \
            const ptrdiff_t i = first + lane;                                                                          \
            lanes[lane] += product;                                                                                    \
        }                                                                                                              \
    for (ptrdiff_t i = whole; i < n; i++)                                                                              \
        lanes[i - whole] += product;                                                                                   \
    return FN(sum_lanes)(lanes, LANES / 2)

static double FN(sum_terms)(const T *x, ptrdiff_t n)
{
    SUM((double)x[i]);
}

static double FN(sum_products)(const T *x, const T *y, ptrdiff_t n)
{
    SUM((double)x[i] * (double)y[i]);
}

static double FN(sum_scaled_squares)(const T *x, double scale, ptrdiff_t n)
{
    SUM((scale * (double)x[i]) * (scale * (double)x[i]));
}

static double FN(sum_squares)(const T *x, ptrdiff_t n)
{
    SUM((double)x[i] * (double)x[i]);
}

#undef SUM

/* Adds squares of up to BLOCK elements whose sum may overflow or underflow in double. */
NOINLINE static void FN(add_scaled_squares)(fastopt_sum *total, double sum, const T *x, ptrdiff_t n)
{
    total->underflowed = sum < 0x1p-900;
    if (total->underflowed)
        total->tiny += FN(sum_scaled_squares)(x, 0x1p600, n); /* 2^(SUM_EXPONENT / 2) */
    else
        total->huge += FN(sum_scaled_squares)(x, 0x1p-600, n);
}

/* Adds the squares of up to BLOCK elements.  Squares of floats always fit into double.  If the squares of the previous
 * block underflowed, this block is scaled at once, so that arrays of zeros are read only once too. */
static void FN(add_squares)(fastopt_sum *total, const T *x, ptrdiff_t n)
{
    if (total->underflowed) {
        const double scaled = FN(sum_scaled_squares)(x, 0x1p600, n);
        if (scaled < 0x1p290) { /* so the unscaled sum is below 2^-900 */
            total->tiny += scaled;
            return;
        }
    }
    const double sum = FN(sum_squares)(x, n);
    if (sizeof(T) == sizeof(float) || (sum >= 0x1p-900 && sum <= 0x1p900))
        total->sum += sum;
    else
        FN(add_scaled_squares)(total, sum, x, n);
}
