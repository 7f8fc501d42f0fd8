/* A pass over all tensors, cut into units that threads claim. */
#include "engine.h"

#include "../threads/threads.h"

enum {
    SMALL_CHUNK = 2048, /* elements per claim, at least */
    CLAIMS = 4,         /* claims per thread, at least, unless there are too few elements */
    SMALL_SHARE = 8192, /* elements per thread, at least: below, a second thread costs more than it gains */
};

/* The work of one thread in a pass, in claims.  The thread takes them from the beginning.  Other threads, when their
 * own work is done, take them from the end: about the same ones in every step, which therefore stay in the caches of
 * these threads. */
struct fastopt_share {
    volatile ptrdiff_t claimed, claimed_by_others;
    ptrdiff_t begin, end, claims;
    char pad[CACHE_LINE - 5 * sizeof(ptrdiff_t)];
};

static ptrdiff_t units_of(const fastopt_job *job, const fastopt_tensor *t)
{
    if (!t->g)
        return job->unit == ELEMENTS_AT_REST && is_averaged_at_rest(t) ? t->n : 0;
    if (job->unit == ELEMENTS)
        return t->n;
    if (job->unit == ELEMENTS_AT_REST)
        return 0;
    if (job->unit == ELEMENTS_WITHOUT_TILES)
        return has_tiles(t) ? 0 : t->n;
    if (job->unit == GATHERED_PIECES && !gathers_now(job, t))
        return 0;
    if (job->unit == GATHERED_PIECES && has_tiles(t))
        return t->engine.matrices->strips * t->engine.matrices->column_tiles;
    return (t->n + CHUNK - 1) / CHUNK;
}

void fastopt_locate(fastopt_job *job, fastopt_unit unit)
{
    job->unit = unit;
    job->units = 0;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        job->tensors[i].engine.start = job->units;
        job->units += units_of(job, &job->tensors[i]);
    }
}

/* Units that a thread claims at a time. */
static ptrdiff_t claim_size(const fastopt_job *job)
{
    if (job->unit >= PIECES) {
        /* Pieces of tensors that are smaller than a chunk are claimed together. */
        const ptrdiff_t pieces = (ptrdiff_t)((int64_t)CHUNK * job->units / job->elements);
        return pieces > 1 ? pieces : 1;
    }
    const ptrdiff_t claim = job->units / job->threads / CLAIMS / CACHE_LINE * CACHE_LINE;
    return claim > CHUNK ? CHUNK : claim < SMALL_CHUNK ? SMALL_CHUNK : claim;
}

/* Visits the grains of a tensor that begin in this range. */
static void visit_grains(fastopt_job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    const ptrdiff_t grain = t->engine.grain, first = (begin + grain - 1) / grain * grain;
    const ptrdiff_t last = (end + grain - 1) / grain * grain, past = last < t->n ? last : t->n;
    if (first < past)
        job->visit(job, t, first, past);
}

static void visit_units(fastopt_job *job, ptrdiff_t begin, ptrdiff_t end)
{
    /* The last tensor that starts at or before begin.  A tensor without units starts where the next tensor starts, so
     * it is never the last one. */
    ptrdiff_t low = 0, high = job->count;
    while (high - low > 1) {
        const ptrdiff_t middle = low + (high - low) / 2;
        if (job->tensors[middle].engine.start <= begin)
            low = middle;
        else
            high = middle;
    }
    for (const fastopt_tensor *t = job->tensors + low; begin < end; t++) {
        const ptrdiff_t start = t->engine.start, past = start + units_of(job, t), stop = past < end ? past : end;
        if (begin < stop) {
            if (t->engine.grain > 1 && job->unit < PIECES)
                visit_grains(job, t, begin - start, stop - start);
            else
                job->visit(job, t, begin - start, stop - start);
            begin = stop;
        }
    }
}

static int work(void *data, int thread)
{
    fastopt_job *job = data;
    int done = 0;
    const uint64_t mode = flush_begin();
    for (int other = 0; other < job->n_shares; other++) {
        fastopt_share *share = &job->shares[(thread + other) % job->n_shares];
        for (ptrdiff_t own = 0; fetch_add(&share->claimed, 1) < share->claims; own++, done++) {
            const ptrdiff_t i = other ? share->claims - 1 - fetch_add(&share->claimed_by_others, 1) : own;
            const ptrdiff_t begin = share->begin + i * job->claim, end = begin + job->claim;
            visit_units(job, begin, end < share->end ? end : share->end);
        }
    }
    flush_end(mode);
    return done;
}

static int most_threads(const fastopt_job *job, int asked)
{
    const ptrdiff_t most = job->elements / SMALL_SHARE;
    if (most < 2 || asked < 2)
        return 1;
    if (asked > FASTOPT_MAX_THREADS)
        asked = FASTOPT_MAX_THREADS;
    return asked < most ? asked : (int)most;
}

void fastopt_begin_passes(fastopt_job *job, fastopt_unit unit, int num_threads)
{
    fastopt_locate(job, unit);
    job->elements = job->units;
    job->threads = most_threads(job, num_threads);
}

/* Visits all units on this thread. */
static void visit_alone(fastopt_job *job)
{
    const uint64_t mode = flush_begin();
    visit_units(job, 0, job->units);
    flush_end(mode);
}

/* Gives each thread its share. */
static void share_out(fastopt_job *job)
{
    _Alignas(CACHE_LINE) fastopt_share shares[FASTOPT_MAX_THREADS];
    job->claim = claim_size(job);
    const ptrdiff_t claims = (job->units + job->claim - 1) / job->claim;
    const int threads = job->threads < claims ? job->threads : (int)claims;
    if (threads < 2) {
        visit_alone(job);
        return;
    }
    const ptrdiff_t cut = job->unit < PIECES ? CACHE_LINE : 1, cuts = job->units / cut;
    for (int i = 0; i < threads; i++) {
        const ptrdiff_t begin = i ? shares[i - 1].end : 0;
        const ptrdiff_t end = i == threads - 1 ? job->units : part_end(cuts, threads, i) * cut;
        shares[i] = (fastopt_share){.begin = begin, .end = end, .claims = (end - begin + job->claim - 1) / job->claim};
    }
    job->shares = shares;
    job->n_shares = threads;
    fastopt_run(threads, work, job);
}

void fastopt_make_pass(fastopt_job *job, fastopt_unit unit, fastopt_visit *visit)
{
    job->visit = visit;
    if (job->unit != unit)
        fastopt_locate(job, unit);
    if (!job->units)
        return;
    if (job->threads > 1)
        share_out(job);
    else
        visit_alone(job);
}
