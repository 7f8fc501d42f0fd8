/* Sums over pieces: norms, clipping factors, and the passes of rules that gather. */
#include "engine.h"

#include "../threads/threads.h"

#include <stdlib.h>

enum { OF_SUM = 3 }; /* doubles of a sum: sum, huge and tiny */

static void sum_up(fastopt_job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    const fastopt_typed_kernels *kernels = &job->kernels->by_dtype[t->dtype];
    for (ptrdiff_t i = begin; i < end; i++) {
        const ptrdiff_t first = i * CHUNK, last = first + CHUNK < t->n ? first + CHUNK : t->n;
        fastopt_sum *sums = job->sums[t->engine.start + i];
        memset(sums, 0, sizeof *job->sums);
        if (job->unit == GATHERED_PIECES && has_tiles(t))
            kernels->tile(t, &job->pass, job->pass_index, i, sums);
        else if (job->unit == GATHERED_PIECES)
            kernels->gather(t, &job->pass, first, last, sums);
        else
            kernels->norm(t, first, last, sums);
    }
}

static void add(fastopt_sum *total, const fastopt_sum *sum)
{
    total->sum += sum->sum;
    total->huge += sum->huge;
    total->tiny += sum->tiny;
}

/* Adds the first sums of all pieces of tensor i, in their order. */
static void add_pieces(const fastopt_job *job, ptrdiff_t i, int count, fastopt_sum *sums)
{
    const ptrdiff_t end = i + 1 < job->count ? job->tensors[i + 1].engine.start : job->units;
    for (ptrdiff_t piece = job->tensors[i].engine.start; piece < end; piece++)
        for (int s = 0; s < count; s++)
            add(&sums[s], &job->sums[piece][s]);
}

/* Adds the first sums of tensor i, of all of its parts if there are parts. */
static void add_tensor(const fastopt_job *job, ptrdiff_t i, int count, fastopt_sum *sums)
{
    if (!job->of_parts) {
        add_pieces(job, i, count, sums);
        return;
    }
    const double *values = job->of_parts + i * count * OF_SUM;
    for (int s = 0; s < count; s++, values += OF_SUM)
        add(&sums[s], &(fastopt_sum){.sum = values[0], .huge = values[1], .tiny = values[2]});
}

static fastopt_status call_sum_parts(fastopt_job *job, ptrdiff_t columns)
{
    const double begin = fastopt_now();
    const int summed = job->call->sum_parts(job->call->data, job->of_parts, columns);
    job->seconds_waited += fastopt_now() - begin;
    return summed ? FASTOPT_OK : FASTOPT_NOT_SUMMED;
}

/* Adds up the first sums of each tensor over its parts, if there are parts. */
static fastopt_status sum_parts(fastopt_job *job, int count)
{
    double *values = job->of_parts;
    if (!values)
        return FASTOPT_OK;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_sum sums[FASTOPT_MAX_SUMS] = {{0}};
        add_pieces(job, i, count, sums);
        for (int s = 0; s < count; s++, values += OF_SUM) {
            values[0] = sums[s].sum;
            values[1] = sums[s].huge;
            values[2] = sums[s].tiny;
        }
    }
    return call_sum_parts(job, count * OF_SUM);
}

fastopt_status fastopt_agree_on_finite(fastopt_job *job)
{
    int nonfinite = job->nonfinite != 0;
    if (job->of_parts) {
        for (ptrdiff_t i = 0; i < job->count; i++)
            job->of_parts[i] = nonfinite;
        const fastopt_status status = call_sum_parts(job, 1);
        if (status != FASTOPT_OK)
            return status;
        for (ptrdiff_t i = 0; i < job->count; i++)
            nonfinite |= job->of_parts[i] != 0;
    }
    return nonfinite ? FASTOPT_NONFINITE : FASTOPT_OK;
}

/* The factor that clips gradients with this norm; NaN for a norm of NaN. */
static double clip_factor(double clip_norm, double norm)
{
    if (clip_norm > DBL_MAX)
        return 1; /* the norm is only computed */
    const double factor = clip_norm / (norm + 1e-6);
    return factor >= 1 ? 1 : factor;
}

int fastopt_allocate_sums(fastopt_job *job, fastopt_sum (*few)[FASTOPT_MAX_SUMS])
{
    ptrdiff_t most = 0;
    if (job->gathers) {
        fastopt_locate(job, GATHERED_PIECES);
        most = job->units;
    }
    if (job->call->clip_norm) {
        fastopt_locate(job, PIECES);
        most = job->units > most ? job->units : most;
    }
    if (job->call->sum_parts &&
        !(job->of_parts = malloc((size_t)(job->count + 1) * FASTOPT_MAX_SUMS * OF_SUM * sizeof *job->of_parts)))
        return 0;
    job->sums = most > FEW_PIECES ? malloc((size_t)most * sizeof *job->sums) : few;
    if (!job->sums)
        free(job->of_parts);
    return job->sums != NULL;
}

fastopt_status fastopt_clip_by_norm(fastopt_job *job)
{
    fastopt_call *call = job->call;
    const double scale = job->pass.scale;
    fastopt_make_pass(job, PIECES, sum_up);
    const fastopt_status status = sum_parts(job, 1);
    if (status != FASTOPT_OK)
        return status;
    fastopt_sum all = {0};
    for (ptrdiff_t first = 0, end; first < job->count; first = end) {
        fastopt_sum of_group = {0};
        for (end = first; end < job->count && job->tensors[end].clip_group == job->tensors[first].clip_group; end++)
            add_tensor(job, end, 1, &of_group);
        const double norm = scale * fastopt_root(&of_group, 1);
        job->pass.scale = scale * clip_factor(call->clip_norm, norm);
        job->pass.own_scales = end - first < job->count;
        for (ptrdiff_t i = first; i < end; i++) {
            job->tensors[i].grad_norm = norm;
            job->tensors[i].engine.scale = job->pass.scale;
        }
        add(&all, &of_group);
    }
    call->grad_norm = scale * fastopt_root(&all, 1);
    return FASTOPT_OK;
}

void fastopt_store_factors(const fastopt_job *job)
{
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        t->engine.gathered = t->step;
        if (!job->pass.own_scales)
            t->engine.scale = job->pass.scale;
    }
}

void fastopt_load_factors(fastopt_job *job)
{
    job->pass.scale = job->count ? job->tensors[0].engine.scale : 1;
    for (ptrdiff_t i = 0; i < job->count; i++)
        job->pass.own_scales |= job->tensors[i].engine.scale != job->pass.scale;
}

/* Prepares a pass of a tensor's rule, with subnormals flushed as in the pass. */
static void prepare_pass(const fastopt_job *job, fastopt_tensor *t, int pass_index, const fastopt_sum *sums)
{
    const uint64_t mode = flush_begin();
    job->kernels->by_dtype[t->dtype].prepare(t, pass_index, sums);
    flush_end(mode);
}

/* Passes each rule its sums over one tensor, or over all tensors that share hyperparameters. */
static void combine(fastopt_job *job)
{
    fastopt_sum sums[FASTOPT_MAX_SUMS];
    const double *group = NULL; /* the hyperparameters that the tensors in sums share */
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        const fastopt_typed_kernels *kernels = &job->kernels->by_dtype[t->dtype];
        if (!gathers_now(job, t))
            continue;
        if (t->rule->gathers >= FASTOPT_BY_TENSOR || group != t->hyper) {
            memset(sums, 0, sizeof sums);
            group = t->rule->gathers == FASTOPT_BY_GROUP ? t->hyper : NULL;
            for (ptrdiff_t j = i; j < (group ? job->count : i + 1); j++)
                if (job->tensors[j].hyper == t->hyper)
                    add_tensor(job, j, FASTOPT_MAX_SUMS, sums);
        }
        if (has_tiles(t))
            prepare_pass(job, t, job->pass_index + 1, sums);
        else if (t->rule->gathers != FASTOPT_MATRICES)
            kernels->combine(t, sums);
    }
}

/* Whether the sums of this pass are read: the last pass of a rule of matrices, which writes p, has none. */
static int sums_are_read(const fastopt_job *job)
{
    for (ptrdiff_t i = 0; i < job->count; i++) {
        const fastopt_rule *rule = job->tensors[i].rule;
        if (gathers_now(job, &job->tensors[i]) &&
            (rule->gathers != FASTOPT_MATRICES || job->pass_index < rule->passes - 1))
            return 1;
    }
    return 0;
}

fastopt_status fastopt_gather(fastopt_job *job)
{
    fastopt_status status = FASTOPT_OK;
    int passes = 0;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        const fastopt_tensor *t = &job->tensors[i];
        if (t->g && t->rule->passes > passes)
            passes = t->rule->passes;
        if (has_tiles(t))
            prepare_pass(job, &job->tensors[i], 0, NULL);
    }
    for (job->pass_index = 0; job->pass_index < passes && status == FASTOPT_OK; job->pass_index++) {
        fastopt_locate(job, GATHERED_PIECES);
        fastopt_make_pass(job, GATHERED_PIECES, sum_up);
        if (sums_are_read(job))
            status = sum_parts(job, FASTOPT_MAX_SUMS);
        if (status == FASTOPT_OK)
            combine(job);
    }
    return status;
}
