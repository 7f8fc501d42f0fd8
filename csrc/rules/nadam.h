/* NAdam.  Dozat, "Incorporating Nesterov momentum into Adam", 2016.
 *
 * mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2);  if momentum_decay is infinite, mu_t = beta1
 * m = beta1 m + (1 - beta1) g
 * v = beta2 v + (1 - beta2) g^2
 * p -= lr (mu_(t+1) m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) g / (1 - mu_1 ... mu_t)) / (sqrt(v_hat) + eps) */

static inline double FN(nadam_mu)(double beta1, double momentum_decay, uint64_t t)
{
    const double log_base = -0.040821994520255166; /* ln 0.96 */
    return beta1 * (1 - 0.5 * fastopt_exp((double)t * momentum_decay * log_base));
}

static void FN(nadam_scalars)(const fastopt_inputs *in, void *scalars)
{
    const nadam_hyper *h = in->hyper;
    nadam_carry *carry = in->carry;
    FN(nadam_k) *k = scalars;
    const double mu = FN(nadam_mu)(h->beta1, h->momentum_decay, (uint64_t)in->t),
                 mu_next = FN(nadam_mu)(h->beta1, h->momentum_decay, (uint64_t)in->t + 1);
    const double product = (in->t == 1 ? 1 : carry->mu_product) * mu;
    carry->mu_product = product;
    const double root2 = sqrt(1 - fastopt_product(in, &h->beta2));
    k->lr_m = (T)(h->lr * root2 * mu_next / (1 - product * mu_next));
    k->lr_g = (T)(h->lr * root2 * (1 - mu) / (1 - product));
    k->beta1 = FN(keep)(h->beta1);
    k->rest1 = FN(rest)(h->beta1);
    k->eps_t = (T)(h->eps * root2 + sqrt(FN(lost_mean)(h->beta2, in->t)));
    k->squares = FN(squares_of)(h->beta2);
}

static void FN(nadam)(T *restrict p, const T *restrict g, const void *buffers, const void *scalars, ptrdiff_t n)
{
    const FN(nadam_state) *state = buffers;
    const FN(nadam_k) *k = scalars;
    T *restrict m = state->m, *restrict v = state->v;
    const T lr_m = k->lr_m, lr_g = k->lr_g, beta1 = k->beta1, rest1 = k->rest1, eps_t = k->eps_t;
    const FN(squares) squares = k->squares;
    for (ptrdiff_t i = 0; i < n; i++) {
        m[i] = beta1 * m[i] + rest1 * g[i];
        v[i] = FN(next_mean)(v[i], g[i] * g[i], squares);
        p[i] -= (lr_m * m[i] + lr_g * g[i]) / (SQRT(v[i]) + eps_t);
    }
}

static const FN(rule_ops) FN(nadam_ops) = {
    .scalars = FN(nadam_scalars),
    .update = FN(nadam),
};
