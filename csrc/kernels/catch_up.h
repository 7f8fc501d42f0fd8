/* Closed forms of several steps with a gradient of 0. */

/* A running mean decays to rate^k mean. */
static void FN(decay)(T *restrict mean, double rate, int64_t skipped, ptrdiff_t n)
{
    const T left = (T)fastopt_rough_power(rate, skipped);
    for (ptrdiff_t i = 0; i < n; i++)
        mean[i] *= left;
}

/* A momentum buffer b decays to mu^k b and moves p by -lr (mu + mu^2 + ... + mu^k) b. */
static void FN(coast)(T *restrict p, T *restrict b, double lr, double mu, int64_t skipped, ptrdiff_t n)
{
    const double power = fastopt_rough_power(mu, skipped);
    const T left = (T)power, moved = (T)(lr * mu * (1 - power) / (1 - mu));
    for (ptrdiff_t i = 0; i < n; i++) {
        p[i] -= moved * b[i];
        b[i] *= left;
    }
}
