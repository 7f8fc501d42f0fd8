/* Sums over pieces: norms, clipping factors, and the passes of rules that gather. */
#include "engine.h"

#include <stdlib.h>

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

/* The factor that clips gradients with this norm; NaN for a norm of NaN. */
static double clip_factor(double clip_norm, double norm)
{
    if (clip_norm > DBL_MAX)
        return 1; /* the norm is only computed */
    const double factor = clip_norm / (norm + 1e-6);
    return factor >= 1 ? 1 : factor;
}

int fastopt_allocate_sums(fastopt_job *job, int clips, fastopt_sum (*few)[MAX_SUMS])
{
    ptrdiff_t most = 0;
    if (job->gathers) {
        fastopt_locate(job, GATHERED_PIECES);
        most = job->units;
    }
    if (clips) {
        fastopt_locate(job, PIECES);
        most = job->units > most ? job->units : most;
    }
    job->sums = most > FEW_PIECES ? malloc((size_t)most * sizeof *job->sums) : few;
    return job->sums != NULL;
}

void fastopt_clip_by_norm(fastopt_job *job, fastopt_call *call)
{
    const double scale = job->pass.scale;
    fastopt_make_pass(job, PIECES, sum_up);
    fastopt_sum all = {0};
    for (ptrdiff_t first = 0, end; first < job->count; first = end) {
        fastopt_sum of_group = {0};
        for (end = first; end < job->count && job->tensors[end].clip_group == job->tensors[first].clip_group; end++)
            add_pieces(job, end, 1, &of_group);
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
    fastopt_sum sums[MAX_SUMS];
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
                    add_pieces(job, j, MAX_SUMS, sums);
        }
        if (has_tiles(t))
            prepare_pass(job, t, job->pass_index + 1, sums);
        else if (t->rule->gathers != FASTOPT_MATRICES)
            kernels->combine(t, sums);
    }
}

void fastopt_gather(fastopt_job *job)
{
    int passes = 0;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        const fastopt_tensor *t = &job->tensors[i];
        if (t->g && t->rule->passes > passes)
            passes = t->rule->passes;
        if (has_tiles(t))
            prepare_pass(job, &job->tensors[i], 0, NULL);
    }
    for (job->pass_index = 0; job->pass_index < passes; job->pass_index++) {
        fastopt_locate(job, GATHERED_PIECES);
        fastopt_make_pass(job, GATHERED_PIECES, sum_up);
        combine(job);
    }
}
