/* The stages around a rule.  Each is a small loop over a block that stays in the L1 cache: scale, clip and decay before
 * the rule, cautious decay and averages after it. */

typedef struct {
    T ema, swa; /* an average moves to p by this share of the difference */
} FN(rates);

typedef struct {
    int on_g, on_p, after_rule; /* whether there is a stage on g before the rule, on p before it, on either after it */
    int averages_before;        /* whether averages begin, or catch up on rounds, before these stages */
    int zero;                   /* whether g is set to zero at the end */
    T scale, scale_rest, weight_decay, shrink;
    T cautious;                 /* the share of p that cautious decay takes; 0: none */
    T clip;                     /* infinity: none */
    T lookahead;                /* below 0: not in this step */
    FN(rates) missed, averages; /* rates of averages before the rule, unless rows have their own, and after it */
} FN(stages);

/* Whether the rule can run directly on the memory of the caller (row by row for gradients of rows). */
static int FN(no_stages)(const fastopt_tensor *tensor, const fastopt_pass *pass)
{
    const fastopt_options *options = tensor->options;
    if (!pass->plain || tensor->engine.grain || tensor->engine.has_missed_rows ||
        ((uintptr_t)tensor->layout | (uintptr_t)tensor->ema | (uintptr_t)tensor->swa | (uintptr_t)tensor->slow))
        return 0;
    return !options || (!options->maximize && options->weight_decay == 0 && options->decoupled_decay == 0 &&
                        options->independent_decay == 0 && !(options->cautious_decay && tensor->rule->separate_decay));
}

/* A factor as a T.  A factor beyond the range of T is a product of two: `rest` is the second one. */
static T FN(split)(double factor, T *rest)
{
    const double size = fabs(factor);
    if (size >= SMALLEST && size <= LARGEST)
        return (T)factor;
    *rest = (T)(size < SMALLEST ? 0x1p-100 : 0x1p100);
    return (T)(size < SMALLEST ? fastopt_times_2_100(factor) : factor / 0x1p100);
}

/* The number of values in the mean swa after this round. */
static int64_t FN(samples)(const fastopt_options *options, int64_t round)
{
    return round < options->swa_start ? 0 : (round - options->swa_start) / options->swa_every + 1;
}

/* The rates for the rounds after `from`, up to `to`, in which p was constant.  If `from` is below 0, averages begin. */
static FN(rates) FN(rates_of)(const fastopt_tensor *tensor, int64_t from, int64_t to)
{
    const fastopt_options *options = tensor->options;
    FN(rates) rates = {0, 0};
    if (from < 0)
        return (FN(rates)){tensor->ema ? 1 : 0, tensor->swa ? 1 : 0};
    if (tensor->ema && from < to)
        rates.ema = (T)(1 - fastopt_rough_power(options->ema_decay, to - from));
    if (tensor->swa && from < to) {
        const int64_t begun = tensor->step == 1 ? to - 1 : tensor->begun, samples = FN(samples)(options, to);
        const int64_t all = samples - FN(samples)(options, begun), more = samples - FN(samples)(options, from);
        rates.swa = more == 0 ? 0 : more < all ? (T)((double)more / (double)all) : 1;
    }
    return rates;
}

/* Sets the stages of averages. */
static void FN(set_average_stages)(const fastopt_tensor *tensor, FN(stages) *stages)
{
    const int64_t round = tensor->round ? tensor->round : tensor->step;
    const int begins = tensor->step == 1;
    if (tensor->averaged_rows)
        stages->averages_before = tensor->engine.has_missed_rows;
    else if (begins || tensor->round)
        stages->missed = FN(rates_of)(tensor, begins ? -1 : tensor->averaged, round - 1);
    stages->averages = FN(rates_of)(tensor, round - 1, round);
    stages->averages_before |= begins || stages->missed.ema != 0 || stages->missed.swa != 0;
    if (tensor->slow && tensor->step % tensor->options->lookahead_every == 0)
        stages->lookahead = (T)tensor->options->lookahead_rate;
    stages->after_rule |= stages->averages.ema != 0 || stages->averages.swa != 0 || stages->lookahead >= 0;
}

static FN(stages) FN(stages_of)(const fastopt_tensor *tensor, const fastopt_pass *pass)
{
    static const fastopt_options none;
    const fastopt_options *options = tensor->options ? tensor->options : &none;
    const double decoupled = tensor->hyper[0] * options->decoupled_decay * fastopt_correction(tensor);
    const T unclipped = (T)INFINITY, clip = (T)pass->clip_value;
    T scale = 1, rest = 1;
    const double factor = pass->own_scales ? tensor->engine.scale : pass->scale;
    if (factor != 1)
        scale = FN(split)(factor, &rest);
    FN(stages)
    stages = {
        .zero = pass->zero_grads && !tensor->rows,
        .scale = options->maximize ? -scale : scale,
        .scale_rest = rest,
        .clip = clip < SMALLEST ? 0 : clip,
        .weight_decay = (T)options->weight_decay,
        .shrink = (T)(1 - decoupled - options->independent_decay),
        .lookahead = -1,
    };
    stages.on_g = stages.scale != 1 || stages.clip != unclipped || options->weight_decay != 0;
    if (options->cautious_decay)
        stages.cautious = (T)(decoupled + options->independent_decay + FN(own_cautious_decay)(tensor));
    else
        stages.on_p = options->decoupled_decay != 0 || options->independent_decay != 0;
    stages.after_rule = stages.zero;
    if (tensor->ema || tensor->swa || tensor->slow)
        FN(set_average_stages)(tensor, &stages);
    return stages;
}

/* The second part of a factor beyond the range of T.  Not inlined: it is rare and would slow down the usual case. */
NOINLINE static void FN(scale_again)(T *out, T factor, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] *= factor;
}

/* The gradient for the rule: clip(scale * g) + weight_decay * p.  Without decay p is not read, since 0 * p is NaN for
 * an infinite p. */
static void FN(stage_g)(T *out, const T *g, const T *p, const FN(stages) *stages, ptrdiff_t n)
{
    const T scale = stages->scale, clip = stages->clip, weight_decay = stages->weight_decay;
    const int clips = clip != (T)INFINITY, again = stages->scale_rest != 1;
    if (!clips && !again && weight_decay != 0) {
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] = scale * g[i] + weight_decay * p[i];
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        out[i] = scale * g[i];
    if (again)
        FN(scale_again)(out, stages->scale_rest, n);
    if (clips)
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] = out[i] > clip ? clip : out[i] < -clip ? -clip : out[i];
    if (weight_decay != 0)
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] += weight_decay * p[i];
}

/* Decoupled decay, before the rule. */
static void FN(stage_p)(T *p, const FN(stages) *stages, ptrdiff_t n)
{
    const T shrink = stages->shrink;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] *= shrink;
}

/* Cautious decay, after the rule: Chen, Li & Liu, "Cautious weight decay", 2025, https://arxiv.org/abs/2510.12402.
 *
 * p -= share p_before  where u p_before >= 0,  with u = p_before - p, the rounded step, and p_before p before it
 *
 * A step that is lost in rounding counts as 0.  An infinite or NaN element does not decay. */
static void FN(stage_cautious)(T *restrict p, const T *restrict p_before, const FN(stages) *stages, ptrdiff_t n)
{
    const T share = stages->cautious;
    for (ptrdiff_t i = 0; i < n; i++) {
        const T u = p_before[i] - p[i], along = p_before[i] < 0 ? -u : u;
        p[i] -= along >= 0 ? share * p_before[i] : 0;
    }
}

/* Moves an average towards p.  At a rate of 1 it is a copy, also of subnormals. */
static void FN(mix)(T *restrict average, const T *restrict p, T rate, ptrdiff_t n)
{
    if (rate == 1) {
        memcpy(average, p, (size_t)n * sizeof(T));
        return;
    }
    for (ptrdiff_t i = 0; i < n; i++)
        average[i] += rate * (p[i] - average[i]);
}

static void FN(update_averages)(const fastopt_tensor *tensor, FN(rates) rates, const T *p, ptrdiff_t offset,
                                ptrdiff_t n)
{
    if (rates.ema != 0)
        FN(mix)((T *)tensor->ema + offset, p, rates.ema, n);
    if (rates.swa != 0)
        FN(mix)((T *)tensor->swa + offset, p, rates.swa, n);
}

/* The same for rows that each have their own last round. */
static void FN(update_averages_by_row)(const fastopt_tensor *tensor, int64_t to, const T *p, ptrdiff_t offset,
                                       ptrdiff_t n)
{
    for (ptrdiff_t i = 0, run; i < n; i += run) {
        const ptrdiff_t row = (offset + i) / tensor->row_length, left = (row + 1) * tensor->row_length - offset - i;
        run = left < n - i ? left : n - i;
        FN(update_averages)(tensor, FN(rates_of)(tensor, tensor->averaged_rows[row], to), p + i, offset + i, run);
    }
}

/* Averages before the rule: they begin, or catch up on missed rounds, with p before the step. */
static void FN(stage_averages_before)(const T *p, const fastopt_tensor *tensor, const FN(stages) *stages,
                                      ptrdiff_t offset, ptrdiff_t n)
{
    if (tensor->slow && tensor->step == 1)
        memcpy((T *)tensor->slow + offset, p, (size_t)n * sizeof(T));
    if (tensor->averaged_rows)
        FN(update_averages_by_row)(tensor, tensor->round - 1, p, offset, n);
    else
        FN(update_averages)(tensor, stages->missed, p, offset, n);
}

/* Averages after the rule.  Lookahead comes first, since it moves p. */
static void FN(stage_averages_after)(T *p, const fastopt_tensor *tensor, const FN(stages) *stages, ptrdiff_t offset,
                                     ptrdiff_t n)
{
    if (stages->lookahead >= 0) {
        T *slow = (T *)tensor->slow + offset;
        FN(mix)(slow, p, stages->lookahead, n);
        memcpy(p, slow, (size_t)n * sizeof(T));
    }
    FN(update_averages)(tensor, stages->averages, p, offset, n);
}
