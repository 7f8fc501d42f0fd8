/* Muon, but for its Newton-Schulz iteration.  Jordan et al., "Muon: an optimizer for hidden layers in neural networks",
 * 2024, https://kellerjordan.github.io/posts/muon/, with the running mean of torch.optim.
 *
 * b = momentum b + (1 - momentum) g
 * u = b;                                        Nesterov: u = momentum b + (1 - momentum) g
 * u = what the caller makes of u between the two passes: the nearest orthogonal matrix, about
 * p -= lr u
 *
 * The first pass leaves b as it is, so that nothing has been changed should the caller give up in between. */

static void FN(muon_scalars)(const double *h, const fastopt_decay *decays, int64_t t, double *carry, T *k)
{
    (void)decays, (void)t, (void)carry;
    k[0] = (T)h[0];
    k[1] = FN(keep)(h[1]);
    k[2] = FN(rest)(h[1]);
    k[3] = h[2] != 0 ? k[1] : 1;
    k[4] = h[2] != 0 ? k[2] : 0;
}

static void FN(muon_gather)(const T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                            ptrdiff_t n, fastopt_sum *sums)
{
    (void)p, (void)sums;
    const T *restrict b = state[0];
    T *restrict u = state[1];
    const T mu = k[1], rest = k[2], of_b = k[3], of_g = k[4];
    for (ptrdiff_t i = 0; i < n; i++)
        u[i] = of_b * (mu * b[i] + rest * g[i]) + of_g * g[i];
}

static void FN(muon_combine)(const double *h, const fastopt_decay *decays, int64_t t, const fastopt_sum *sums,
                             ptrdiff_t n, double *carry, T *k)
{
    (void)decays, (void)h, (void)t, (void)sums, (void)n, (void)carry, (void)k;
}

static void FN(muon)(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k, ptrdiff_t n)
{
    T *restrict b = state[0];
    const T *restrict u = state[1];
    const T lr = k[0], mu = k[1], rest = k[2];
    for (ptrdiff_t i = 0; i < n; i++) {
        b[i] = mu * b[i] + rest * g[i];
        p[i] -= lr * u[i];
    }
}
