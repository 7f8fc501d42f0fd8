/* Before a step: checks and scalars.  After it: records of the last step of tensors and rows. */
#include "engine.h"

static int valid_options(const fastopt_options *options)
{
    return IN_RANGE(weight_decay, options->weight_decay) && IN_RANGE(weight_decay, options->decoupled_decay) &&
           IN_RANGE(weight_decay, options->independent_decay) && IN_RANGE(ema_decay, options->ema_decay) &&
           IN_RANGE(lookahead_rate, options->lookahead_rate) && IN_RANGE(lr, options->peak_lr);
}

/* Whether the rule can do cautious decay with its own decay, if it has one and the options ask for it. */
static int valid_own_decay(const fastopt_tensor *t)
{
    if (!t->options->cautious_decay || t->rule->separate_decay)
        return 1;
    const int own = fastopt_own_decay(t->rule);
    return own < 0 || t->hyper[own] == 0;
}

/* Whether a tensor has averages or data by row. */
static inline int has_averages_or_rows(const fastopt_tensor *t)
{
    return ((uintptr_t)t->ema | (uintptr_t)t->swa | (uintptr_t)t->slow | (uintptr_t)t->last_step |
            (uintptr_t)t->averaged_rows | (uintptr_t)t->rows) != 0;
}

static int valid_averages(const fastopt_tensor *t)
{
    const fastopt_options *options = t->options;
    if (!t->ema && !t->swa && !t->slow)
        return 1;
    return options && t->round >= 0 && (!t->swa || (options->swa_start >= 1 && options->swa_every >= 1)) &&
           (!t->slow || options->lookahead_every >= 1);
}

/* Whether the data by row are valid: gradients of rows, the last step of each row, averages by row. */
static int valid_rows(const fastopt_tensor *t)
{
    const fastopt_options *options = t->options;
    if ((t->last_step || t->averaged_rows) && (t->row_length < 1 || t->n % t->row_length || t->slow))
        return 0;
    if (t->averaged_rows && (t->round < 1 || !fastopt_rule_takes_rows(t->rule)))
        return 0;
    if (t->last_step &&
        (!fastopt_rule_catch_up(t->rule) || t->layout || t->ema || t->swa ||
         (options && (options->weight_decay != 0 || options->decoupled_decay != 0 || options->independent_decay != 0))))
        return 0;
    return !t->rows ||
           (t->row_gradients && !t->formats.g && t->row_length > 0 && t->n % t->row_length == 0 && !t->layout &&
            !t->slow && (t->averaged_rows || (!t->ema && !t->swa)) && fastopt_rule_takes_rows(t->rule));
}

/* Whether a buffer can have a format; `may` says whether the format is for such buffers. */
static int valid_format(int format, int may, const void *rest)
{
    return !format || (may && (!fastopt_format_infos[format].rest_bytes || rest));
}

static int valid_state_format(const fastopt_tensor *t, int s)
{
    const fastopt_format_info *info = &fastopt_format_infos[t->formats.state[s]];
    const fastopt_kind kind = t->rule->kind[s];
    const int may = kind == FASTOPT_SIGNED ? info->of_signed : kind == FASTOPT_NONNEGATIVE && info->of_nonnegative;
    return !t->formats.state[s] ||
           (valid_format(t->formats.state[s], may, t->state_rest[s]) && t->rule->extent[s] == FASTOPT_WHOLE &&
            (info->group == 1 || t->rule->gathers != FASTOPT_MATRICES));
}

/* Whether the buffers can have their formats.  Sets the key of random numbers and the grain, which is the whole tensor
 * if rows share groups. */
NOINLINE static int valid_formats(fastopt_tensor *t)
{
    if (t->formats.unused[0] || t->formats.unused[1] || t->formats.p >= FORMATS || t->formats.g >= FORMATS ||
        (unsigned)t->rounding > FASTOPT_STOCHASTIC || (t->formats.p && t->dtype != FASTOPT_FLOAT32) ||
        !valid_format(t->formats.p, fastopt_format_infos[t->formats.p].of_p, t->p_rest) ||
        !valid_format(t->formats.g, fastopt_format_infos[t->formats.g].of_g, NULL))
        return 0;
    ptrdiff_t group = 1;
    for (int s = 0; s < FASTOPT_MAX_STATE; s++) {
        const int format = t->formats.state[s];
        if (format && !t->rule->state[s])
            return 0;
        if (format >= FORMATS || !valid_state_format(t, s))
            return 0;
        group = fastopt_format_infos[format].group > group ? fastopt_format_infos[format].group : group;
    }
    if (t->offset < 0 || t->offset % group || (group > 1 && t->rows && t->row_count < 1))
        return 0;
    if (t->rounding)
        t->engine.random_key = fastopt_random_key(t->seed, t->key, (uint64_t)t->step);
    t->engine.grain = group > 1 && t->rows && t->row_length % group ? t->n : group;
    return 1;
}

static inline int find_grain(fastopt_tensor *t)
{
    t->engine.grain = 0;
    return fastopt_is_native(t) || valid_formats(t);
}

/* Whether the shape fits n, for rules that read the shape; with a gradient of rows, whether it consists of whole rows.
 */
static int valid_shape(const fastopt_tensor *t)
{
    ptrdiff_t n = 1;
    if (t->rule->gathers != FASTOPT_MATRICES && t->rule->gathers != FASTOPT_BY_ROW)
        return 1;
    if (!t->shape || t->ndim < 2)
        return 0;
    for (int axis = 0; axis < t->ndim; axis++) {
        const ptrdiff_t length = t->shape[axis];
        if (length < 0 || (length > 0 && n > PTRDIFF_MAX / length))
            return 0;
        n *= length;
    }
    if (t->rows)
        return n % t->row_length == 0 && (!n || t->row_length % t->shape[t->ndim - 1] == 0);
    return n == t->n;
}

fastopt_status fastopt_check(fastopt_tensor *tensors, ptrdiff_t count)
{
    const double *hyper = NULL; /* of the last valid tensor, like the next two */
    const fastopt_rule *rule = NULL;
    const fastopt_options *options = NULL;
    for (ptrdiff_t i = 0; i < count; i++) {
        fastopt_tensor *t = &tensors[i];
        if (!t->g)
            continue;
        if (!t->rule || !t->hyper || !t->p || t->n < 0 || t->step < 1 || (unsigned)t->dtype > FASTOPT_FLOAT64 ||
            (t->whole_n && t->whole_n < t->n))
            return FASTOPT_BAD_TENSOR;
        for (int s = 0; t->rule->state[s]; s++)
            if (!t->state[s])
                return FASTOPT_BAD_TENSOR;
        if (t->rule->carry[0] && !t->carry)
            return FASTOPT_BAD_TENSOR;
        if ((has_averages_or_rows(t) && !(valid_averages(t) && valid_rows(t))) || !valid_shape(t) || !find_grain(t) ||
            (t->decays && !fastopt_valid_decays(t)))
            return FASTOPT_BAD_TENSOR;
        if ((t->hyper != hyper || t->rule != rule) && !fastopt_valid_hyper(t->rule, t->hyper))
            return FASTOPT_BAD_HYPER;
        if (t->options && ((t->options != options && !valid_options(t->options)) || !valid_own_decay(t)))
            return FASTOPT_BAD_HYPER;
        hyper = t->hyper;
        rule = t->rule;
        options = t->options;
    }
    return FASTOPT_OK;
}

fastopt_status fastopt_check_averages(fastopt_tensor *tensors, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        fastopt_tensor *t = &tensors[i];
        if (!is_averaged_at_rest(t))
            continue;
        if (!t->rule || !t->p || t->n < 0 || (unsigned)t->dtype > FASTOPT_FLOAT64 || !valid_averages(t) ||
            !valid_rows(t) || !find_grain(t))
            return FASTOPT_BAD_TENSOR;
        if (!valid_options(t->options))
            return FASTOPT_BAD_HYPER;
    }
    return FASTOPT_OK;
}

/* ---- Scalars ---- */

/* Whether t has the same scalars as an earlier tensor, whose carried doubles were `carry` before this step. */
static int same_scalars(const fastopt_tensor *t, const fastopt_tensor *before, const double *carry)
{
    if (!before || t->rule->gathers >= FASTOPT_BY_TENSOR || t->hyper != before->hyper || t->rule != before->rule ||
        t->dtype != before->dtype || t->step != before->step ||
        (t->decays != before->decays && !fastopt_same_decays(t, before)) || fastopt_changes_own_decay(t) ||
        fastopt_changes_own_decay(before))
        return 0;
    for (int i = 0; t->rule->carry[i]; i++)
        if (t->step > 1 && t->carry[i] != carry[i])
            return 0;
    return 1;
}

void fastopt_compute_scalars(const fastopt_job *job)
{
    const fastopt_tensor *computed = NULL;
    double carry[FASTOPT_MAX_CARRY] = {0};
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        if (!t->g)
            continue;
        if (t->decays)
            fastopt_note_decays(t);
        if (same_scalars(t, computed, carry)) {
            t->engine.k = computed->engine.k;
            for (int i = 0; t->rule->carry[i]; i++)
                t->carry[i] = computed->carry[i];
        } else {
            for (int i = 0; t->rule->carry[i]; i++)
                carry[i] = t->carry[i];
            job->kernels->by_dtype[t->dtype].scalars(t);
            t->engine.k = &t->engine.k_store;
            computed = t;
        }
    }
}

/* ---- Rows that have missed steps ---- */

/* The last step, or round, of each row, or NULL; sets `now` to the current step or round. */
static int64_t *last_of_rows(const fastopt_tensor *t, int64_t *now)
{
    *now = t->last_step ? t->step : t->round;
    return t->last_step ? t->last_step : t->averaged_rows;
}

/* A whole gradient needs no work by row unless some row has missed a step. */
void fastopt_find_missed_rows(fastopt_job *job)
{
    int notes_steps = 0;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        t->engine.has_missed_rows = 0;
        if (!((uint64_t)(uintptr_t)t->last_step | (uint64_t)(uintptr_t)t->largest_lr | (uint64_t)t->round) || !t->g)
            continue;
        notes_steps = 1;
        int64_t now;
        const int64_t *last = last_of_rows(t, &now);
        const ptrdiff_t rows = last ? t->n / t->row_length : 0;
        ptrdiff_t row = 0;
        while (!t->rows && row < rows && last[row] == now - 1)
            row++;
        t->engine.has_missed_rows = t->rows || row < rows;
    }
    job->notes_steps = notes_steps;
}

/* Records this step, or round, for all rows of a tensor, or for the rows of its gradient. */
static void note_rows(const fastopt_tensor *t, int64_t *last, int64_t now)
{
    const int64_t *rows = t->rows;
    const ptrdiff_t count = t->n / t->row_length;
    if (rows)
        for (ptrdiff_t row = 0; row < count; row++)
            last[rows[row]] = now;
    else
        for (ptrdiff_t row = 0; row < count; row++)
            last[row] = now;
}

void fastopt_note_steps(const fastopt_job *job, int64_t offset)
{
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        int64_t now, *last = last_of_rows(t, &now);
        if (!t->g)
            continue;
        if (last)
            note_rows(t, last, now + offset);
        if (t->largest_lr && offset == 0)
            *t->largest_lr = t->hyper[0] > *t->largest_lr ? t->hyper[0] : *t->largest_lr;
        t->averaged = t->round;
        if (t->round && t->step == 1)
            t->begun = t->round - 1;
    }
}

void fastopt_note_rounds(fastopt_tensor *tensors, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++) {
        fastopt_tensor *t = &tensors[i];
        if (!is_averaged_at_rest(t))
            continue;
        t->averaged = t->round;
        if (t->averaged_rows)
            note_rows(t, t->averaged_rows, t->round);
    }
}
