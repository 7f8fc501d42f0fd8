/* Tensors to chunks to threads: the way of every step. */
#include "kernels.h"
#include "platform.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

enum {
    CHUNK = 16 * 1024,  /* elements a thread claims at a time: long enough to forget the claim, short enough that a
                           thread that comes late, or is taken off its core, holds the others up only little */
    MAX_THREADS = 256,
    CACHE_LINE = 64,
};

/* The chunks of one thread's share.  Others take from it too once their own is done. */
typedef struct {
    volatile ptrdiff_t next;
    ptrdiff_t end;
    char pad[CACHE_LINE - 2 * sizeof(ptrdiff_t)];
} share;

typedef struct {
    const fastopt_kernels *kernels;
    const fastopt_tensor *tensors;
    ptrdiff_t count, total;
    int threads;
    share *shares;
} job;

static void update_range(const job *job, ptrdiff_t begin, ptrdiff_t end)
{
    /* The last tensor that starts at or before begin.  Tensors without elements or gradient start where the next one
     * does, so it is never one of those. */
    ptrdiff_t low = 0, high = job->count;
    while (high - low > 1) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if (job->tensors[middle].engine.start <= begin)
            low = middle;
        else
            high = middle;
    }
    for (const fastopt_tensor *t = job->tensors + low; begin < end; t++) {
        if (!t->g)
            continue;
        const ptrdiff_t start = t->engine.start, stop = start + t->n < end ? start + t->n : end;
        if (begin < stop)
            job->kernels->of[t->dtype].update(t, begin - start, stop - start);
        begin = stop;
    }
}

static void work(const job *job, int thread)
{
    const uint64_t mode = flush_begin();
    for (int other = 0; other < job->threads; other++) {
        share *share = &job->shares[(thread + other) % job->threads];
        for (;;) {
            const ptrdiff_t begin = fetch_add(&share->next, CHUNK);
            if (begin >= share->end)
                break;
            update_range(job, begin, begin + CHUNK < share->end ? begin + CHUNK : share->end);
        }
    }
    flush_end(mode);
}

#ifdef _OPENMP
static volatile int used_threads;
#endif
static volatile int forked;

#if defined(_OPENMP) && !defined(_WIN32)
/* A forked child has the state of its parent's OpenMP pool but not its threads: a region there would wait for ever. */
static void after_fork_in_child(void)
{
    forked = used_threads;
}
#endif

#ifdef _OPENMP
static void work_together(job *job)
{
#ifndef _WIN32
    if (!used_threads)
        pthread_atfork(NULL, NULL, after_fork_in_child);
#endif
    used_threads = 1;

    share shares[MAX_THREADS];
    const ptrdiff_t lines = job->total / CACHE_LINE;
    for (int i = 0; i < job->threads; i++) {
        shares[i].next = i ? shares[i - 1].end : 0;
        shares[i].end = i == job->threads - 1 ? job->total : lines * (i + 1) / job->threads * CACHE_LINE;
    }
    job->shares = shares;
    /* Should the runtime grant fewer threads, the ones there are take the other shares too. */
#pragma omp parallel num_threads(job->threads)
    work(job, omp_get_thread_num());
}
#endif

static int valid_hyper(const fastopt_tensor *t)
{
    for (int i = 0; t->rule->hyper[i]; i++)
        if (!fastopt_in_range(fastopt_find_hyper(t->rule->hyper[i]), t->hyper[i]))
            return 0;
    return 1;
}

static int valid_options(const fastopt_options *options)
{
    const fastopt_hyper *decay = fastopt_find_hyper("weight_decay");
    return fastopt_in_range(decay, options->weight_decay) && fastopt_in_range(decay, options->decoupled_decay);
}

static fastopt_status check(const fastopt_tensor *tensors, ptrdiff_t count)
{
    const double *hyper = NULL; /* found valid already, as options */
    const fastopt_rule *rule = NULL;
    const fastopt_options *options = NULL;
    for (const fastopt_tensor *t = tensors; t < tensors + count; t++) {
        if (!t->g)
            continue;
        if (!t->rule || !t->hyper || !t->p || t->n < 0 || t->step < 1 || (unsigned)t->dtype > FASTOPT_FLOAT64)
            return FASTOPT_BAD_TENSOR;
        for (int s = 0; t->rule->state[s]; s++)
            if (!t->state[s])
                return FASTOPT_BAD_TENSOR;
        if (t->rule->carry[0] && !t->carry)
            return FASTOPT_BAD_TENSOR;
        if ((t->hyper != hyper || t->rule != rule) && !valid_hyper(t))
            return FASTOPT_BAD_HYPER;
        if (t->options && t->options != options && !valid_options(t->options))
            return FASTOPT_BAD_HYPER;
        hyper = t->hyper;
        rule = t->rule;
        options = t->options;
    }
    return FASTOPT_OK;
}

/* Whether t takes the same scalars as a tensor before it, whose carried doubles were `carry` then. */
static int same_scalars(const fastopt_tensor *t, const fastopt_tensor *before, const double *carry)
{
    if (!before || t->hyper != before->hyper || t->rule != before->rule || t->dtype != before->dtype ||
        t->step != before->step)
        return 0;
    for (int i = 0; t->rule->carry[i]; i++)
        if (t->step > 1 && t->carry[i] != carry[i])
            return 0;
    return 1;
}

/* Where each tensor starts among all elements, and this step's scalars, computed once for those that share them.
 * Returns the number of elements. */
static ptrdiff_t prepare(const fastopt_kernels *kernels, fastopt_tensor *tensors, ptrdiff_t count)
{
    ptrdiff_t total = 0;
    const fastopt_tensor *computed = NULL;
    double carry[FASTOPT_MAX_CARRY] = {0};
    for (fastopt_tensor *t = tensors; t < tensors + count; t++) {
        t->engine.start = total;
        if (!t->g)
            continue;
        total += t->n;
        if (same_scalars(t, computed, carry)) {
            t->engine.k = computed->engine.k;
            for (int i = 0; t->rule->carry[i]; i++)
                t->carry[i] = computed->carry[i];
        } else {
            for (int i = 0; t->rule->carry[i]; i++)
                carry[i] = t->carry[i];
            kernels->of[t->dtype].scalars(t);
            t->engine.k = &t->engine.k_store;
            computed = t;
        }
    }
    return total;
}

fastopt_status fastopt_step(fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    const fastopt_status status = check(tensors, count);
    if (status != FASTOPT_OK)
        return status;

    job job = {.kernels = kernels, .tensors = tensors, .count = count};
    job.total = prepare(kernels, tensors, count);
    const ptrdiff_t chunks = (job.total + CHUNK - 1) / CHUNK;
    job.threads = num_threads < 1 || forked ? 1 : num_threads > MAX_THREADS ? MAX_THREADS : num_threads;
    if (job.threads > chunks)
        job.threads = (int)chunks;
#ifdef _OPENMP
    if (job.threads > 1 && !omp_in_parallel()) {
        work_together(&job);
        return FASTOPT_OK;
    }
#endif
    if (job.total) {
        const uint64_t mode = flush_begin();
        update_range(&job, 0, job.total);
        flush_end(mode);
    }
    return FASTOPT_OK;
}

int fastopt_forked(void)
{
    return forked;
}
