/* Tensors to chunks to threads: the way of every step. */
#include "../kernels/kernels.h"
#include "../platform.h"
#include "../rules/rules.h"
#include "../threads/threads.h"
#include "../threads/tuner.h"

#include <stdlib.h>

enum {
    CHUNK = 16 * 1024,  /* elements per claim: large enough to hide the atomic operation, small enough that a thread
                           that is taken off its core delays the others little */
    SMALL_CHUNK = 2048, /* the same where there are few elements */
    CLAIMS = 4,         /* of each thread, at least, where there are */
    SMALL_SHARE = 8192, /* elements per thread for which a second one pays */
    CACHE_LINE = 64,
    MAX_SUMS = 2, /* of a rule that gathers */
    FEW_PIECES = 64,
};

/* What a pass counts and threads claim: elements, of all tensors, of those whose rule is not one of matrices, or of
 * those without a gradient whose averages move; or, where something is summed, pieces of CHUNK elements of a tensor,
 * and tiles of matrices.  Pieces and tiles are always the same ones and have their own sums, so that these do not
 * depend on the threads. */
typedef enum { ELEMENTS, ELEMENTS_LEFT, ELEMENTS_AT_REST, PIECES, GATHERED_PIECES } unit;

/* What one thread has to do of a pass, in claims.  It takes them from the beginning on.  Other threads, once they have
 * none of their own, take them from the end: in steps of one kind always about the same ones, which stay in their
 * caches. */
typedef struct {
    volatile ptrdiff_t taken, taken_by_others;
    ptrdiff_t begin, end, claims;
    char pad[CACHE_LINE - 5 * sizeof(ptrdiff_t)];
} share;

/* Passes over the tensors that have a gradient. */
typedef struct job {
    const fastopt_kernels *kernels;
    fastopt_tensor *tensors;
    ptrdiff_t count, elements;
    int gathers;        /* whether some rule does */
    int remembers;      /* whether some tensor, or its rows, note the step that they meet */
    ptrdiff_t matrices; /* tensors that have tiles */
    int made;           /* gathering passes so far */
    int threads;
    fastopt_pass pass;
    fastopt_sum (*sums)[MAX_SUMS]; /* of every piece */
    volatile ptrdiff_t nonfinite;  /* chunks found so */
    /* The pass at hand. */
    unit unit;
    ptrdiff_t units, claim; /* how many there are, and how many a thread claims at a time */
    void (*visit)(struct job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end);
    share *shares;
    int n_shares;
} job;

/* Whether a tensor has tiles. */
static int of_matrices(const fastopt_tensor *t)
{
    return t->g && t->n && t->rule->gathers == FASTOPT_MATRICES;
}

/* Whether the next gathering pass is one of this tensor's rule. */
static int gathers_now(const job *job, const fastopt_tensor *t)
{
    return t->g && job->made < t->rule->passes;
}

/* Whether a tensor has averages that move without a step of it. */
static int is_averaged_at_rest(const fastopt_tensor *t)
{
    return !t->g && (t->ema || t->swa) && t->step > 1 && t->round > 0;
}

static ptrdiff_t units_of(const job *job, const fastopt_tensor *t)
{
    if (!t->g)
        return job->unit == ELEMENTS_AT_REST && is_averaged_at_rest(t) ? t->n : 0;
    if (job->unit == ELEMENTS)
        return t->n;
    if (job->unit == ELEMENTS_AT_REST)
        return 0;
    if (job->unit == ELEMENTS_LEFT)
        return of_matrices(t) ? 0 : t->n;
    if (job->unit == GATHERED_PIECES && !gathers_now(job, t))
        return 0;
    if (job->unit == GATHERED_PIECES && of_matrices(t))
        return t->engine.matrices->strips * t->engine.matrices->column_tiles;
    return (t->n + CHUNK - 1) / CHUNK;
}

/* ---- What the passes do to units begin to end of a tensor ---- */

static void update(job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    job->kernels->of[t->dtype].update(t, &job->pass, begin, end);
}

static void check_finite(job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    if (!job->kernels->of[t->dtype].finite(t, begin, end))
        fetch_add(&job->nonfinite, 1);
}

static void catch_up(job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    if (t->seen)
        job->kernels->of[t->dtype].catch_up(t, begin, end);
}

static void average(job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    job->kernels->of[t->dtype].average(t, begin, end);
}

static void sum_up(job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    const fastopt_typed_kernels *kernels = &job->kernels->of[t->dtype];
    for (ptrdiff_t i = begin; i < end; i++) {
        const ptrdiff_t first = i * CHUNK, last = first + CHUNK < t->n ? first + CHUNK : t->n;
        fastopt_sum *sums = job->sums[t->engine.start + i];
        memset(sums, 0, sizeof *job->sums);
        if (job->unit == GATHERED_PIECES && of_matrices(t))
            kernels->tile(t, &job->pass, job->made, i, sums);
        else if (job->unit == GATHERED_PIECES)
            kernels->gather(t, &job->pass, first, last, sums);
        else
            kernels->norm(t, first, last, sums);
    }
}

/* ---- A pass ---- */

static void do_range(job *job, ptrdiff_t begin, ptrdiff_t end)
{
    /* The last tensor that starts at or before begin.  Tensors without units start where the next one does, so it is
     * never one of those. */
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
            job->visit(job, t, begin - start, stop - start);
            begin = stop;
        }
    }
}

static int work(void *data, int thread)
{
    job *job = data;
    int done = 0;
    const uint64_t mode = flush_begin();
    for (int other = 0; other < job->n_shares; other++) {
        share *share = &job->shares[(thread + other) % job->n_shares];
        for (ptrdiff_t own = 0; fetch_add(&share->taken, 1) < share->claims; own++, done++) {
            const ptrdiff_t i = other ? share->claims - 1 - fetch_add(&share->taken_by_others, 1) : own;
            const ptrdiff_t begin = share->begin + i * job->claim, end = begin + job->claim;
            do_range(job, begin, end < share->end ? end : share->end);
        }
    }
    flush_end(mode);
    return done;
}

/* The most threads that a pass over these elements can use here. */
static int most_threads(const job *job, int asked)
{
    const ptrdiff_t most = job->elements / SMALL_SHARE;
    if (most < 2 || asked < 2)
        return 1;
    if (asked > FASTOPT_MAX_THREADS)
        asked = FASTOPT_MAX_THREADS;
    return asked < most ? asked : (int)most;
}

/* Where each tensor starts among the units of a pass. */
static void locate(job *job, unit unit)
{
    job->unit = unit;
    job->units = 0;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        job->tensors[i].engine.start = job->units;
        job->units += units_of(job, &job->tensors[i]);
    }
}

/* Units that a thread claims at a time. */
static ptrdiff_t claim_size(const job *job)
{
    if (job->unit >= PIECES) {
        const ptrdiff_t together = CHUNK * job->units / job->elements; /* tensors smaller than a piece */
        return together > 1 ? together : 1;
    }
    const ptrdiff_t claim = job->units / job->threads / CLAIMS / CACHE_LINE * CACHE_LINE;
    return claim > CHUNK ? CHUNK : claim < SMALL_CHUNK ? SMALL_CHUNK : claim;
}

static void do_alone(job *job)
{
    const uint64_t mode = flush_begin();
    do_range(job, 0, job->units);
    flush_end(mode);
}

static void share_out(job *job)
{
    _Alignas(CACHE_LINE) share shares[FASTOPT_MAX_THREADS];
    job->claim = claim_size(job);
    const ptrdiff_t claims = (job->units + job->claim - 1) / job->claim;
    const int threads = job->threads < claims ? job->threads : (int)claims;
    if (threads < 2) {
        do_alone(job);
        return;
    }
    const ptrdiff_t cut = job->unit < PIECES ? CACHE_LINE : 1, cuts = job->units / cut;
    for (int i = 0; i < threads; i++) {
        const ptrdiff_t begin = i ? shares[i - 1].end : 0;
        const ptrdiff_t end = i == threads - 1 ? job->units : cuts * (i + 1) / threads * cut;
        shares[i] = (share){.begin = begin, .end = end, .claims = (end - begin + job->claim - 1) / job->claim};
    }
    job->shares = shares;
    job->n_shares = threads;
    fastopt_run(threads, work, job);
}

static void run(job *job, unit unit,
                void (*visit)(struct job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end))
{
    job->visit = visit;
    if (job->unit != unit)
        locate(job, unit);
    if (!job->units)
        return;
    if (job->threads > 1)
        share_out(job);
    else
        do_alone(job);
}

/* ---- Before a step: checks, places, scalars ---- */

static int valid_hyper(const fastopt_tensor *t)
{
    for (int i = 0; t->rule->hyper[i]; i++)
        if (!in_range(fastopt_rule_hyper(t->rule, i), t->hyper[i]))
            return 0;
    return 1;
}

static int valid_options(const fastopt_options *options)
{
    return IN_RANGE(weight_decay, options->weight_decay) && IN_RANGE(weight_decay, options->decoupled_decay) &&
           IN_RANGE(weight_decay, options->independent_decay) && IN_RANGE(ema_decay, options->ema_decay) &&
           IN_RANGE(lookahead_rate, options->lookahead_rate);
}

/* Whether a tensor is more than a parameter and its gradient: averaged, or of rows. */
static inline int has_more(const fastopt_tensor *t)
{
    return ((uintptr_t)t->ema | (uintptr_t)t->swa | (uintptr_t)t->slow | (uintptr_t)t->seen |
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

/* Whether a tensor whose rows remember which step they have met last can have them, and make up for those since. */
static int valid_rows(const fastopt_tensor *t)
{
    const fastopt_options *options = t->options;
    if ((t->seen || t->averaged_rows) && (t->row_length < 1 || t->n % t->row_length || t->slow))
        return 0;
    if (t->averaged_rows && (t->round < 1 || !fastopt_rule_takes_rows(t->rule)))
        return 0;
    if (t->seen &&
        (!fastopt_rule_catch_up(t->rule) || t->layout || t->ema || t->swa ||
         (options && (options->weight_decay != 0 || options->decoupled_decay != 0 || options->independent_decay != 0))))
        return 0;
    return !t->rows ||
           (t->row_gradients && !t->g_format && t->row_length > 0 && t->n % t->row_length == 0 && !t->layout &&
            !t->slow && (t->averaged_rows || (!t->ema && !t->swa)) && fastopt_rule_takes_rows(t->rule));
}

/* Whether the rule can have what it needs to know of the parameter's shape. */
static int valid_shape(const fastopt_tensor *t)
{
    ptrdiff_t n = 1;
    if (t->rule->gathers != FASTOPT_MATRICES)
        return 1;
    if (!t->shape || t->ndim < 2)
        return 0;
    for (int axis = 0; axis < t->ndim; axis++)
        n *= t->shape[axis];
    return n == t->n;
}

static fastopt_status check(const fastopt_tensor *tensors, ptrdiff_t count)
{
    const double *hyper = NULL; /* found valid already, as options */
    const fastopt_rule *rule = NULL;
    const fastopt_options *options = NULL;
    for (ptrdiff_t i = 0; i < count; i++) {
        const fastopt_tensor *t = &tensors[i];
        if (!t->g)
            continue;
        if (!t->rule || !t->hyper || !t->p || t->n < 0 || t->step < 1 || (unsigned)t->dtype > FASTOPT_FLOAT64 ||
            (unsigned)t->g_format > FASTOPT_G_FLOAT64)
            return FASTOPT_BAD_TENSOR;
        for (int s = 0; t->rule->state[s]; s++)
            if (!t->state[s])
                return FASTOPT_BAD_TENSOR;
        if (t->rule->carry[0] && !t->carry)
            return FASTOPT_BAD_TENSOR;
        if ((has_more(t) && !(valid_averages(t) && valid_rows(t))) || !valid_shape(t) ||
            (t->decays && !fastopt_valid_decays(t)))
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
    if (!before || t->rule->gathers >= FASTOPT_ALONE || t->hyper != before->hyper || t->rule != before->rule ||
        t->dtype != before->dtype || t->step != before->step ||
        (t->decays != before->decays && !fastopt_same_decays(t, before)))
        return 0;
    for (int i = 0; t->rule->carry[i]; i++)
        if (t->step > 1 && t->carry[i] != carry[i])
            return 0;
    return 1;
}

/* This step's scalars, computed once for tensors that share them. */
static void compute_scalars(const job *job)
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
            job->kernels->of[t->dtype].scalars(t);
            t->engine.k = &t->engine.k_store;
            computed = t;
        }
    }
}

/* ---- Norms and other sums ---- */

static void add(fastopt_sum *total, const fastopt_sum *sum)
{
    total->sum += sum->sum;
    total->huge += sum->huge;
    total->tiny += sum->tiny;
}

/* Adds the first sums of all pieces of tensor i, in their order. */
static void add_pieces(const job *job, ptrdiff_t i, int count, fastopt_sum *sums)
{
    const ptrdiff_t end = i + 1 < job->count ? job->tensors[i + 1].engine.start : job->units;
    for (ptrdiff_t piece = job->tensors[i].engine.start; piece < end; piece++)
        for (int s = 0; s < count; s++)
            add(&sums[s], &job->sums[piece][s]);
}

/* The factor that clips gradients of this norm, NaN for a norm of NaN. */
static double clip_factor(double clip_norm, double norm)
{
    if (clip_norm > DBL_MAX)
        return 1; /* measured alone */
    const double factor = clip_norm / (norm + 1e-6);
    return factor >= 1 ? 1 : factor;
}

/* The factor of every gradient divides by grad_scale, and clips by the norm of its clip group. */
static void find_factors(job *job, fastopt_call *call)
{
    const double scale = call->grad_scale ? 1 / call->grad_scale : 1;
    job->pass.scale = scale;
    if (!call->clip_norm)
        return;
    run(job, PIECES, sum_up);
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

/* Notes for an UPDATE what GATHER has found. */
static void keep_factors(const job *job)
{
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        t->engine.gathered = t->step;
        if (!job->pass.own_scales)
            t->engine.scale = job->pass.scale;
    }
}

static void recall_factors(job *job)
{
    job->pass.scale = job->count ? job->tensors[0].engine.scale : 1;
    for (ptrdiff_t i = 0; i < job->count; i++)
        job->pass.own_scales |= job->tensors[i].engine.scale != job->pass.scale;
}

/* Prepares the next pass of a tensor's rule: like a pass, with subnormals flushed. */
static void prepare_pass(const job *job, fastopt_tensor *t, int made, const fastopt_sum *sums)
{
    const uint64_t mode = flush_begin();
    job->kernels->of[t->dtype].prepare(t, made, sums);
    flush_end(mode);
}

/* Tells the rules of a tensor's pieces, or of those of all tensors that share its hyperparameters, their sums. */
static void combine(job *job)
{
    fastopt_sum sums[MAX_SUMS];
    const double *together = NULL; /* the hyperparameters whose tensors are in sums */
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        const fastopt_typed_kernels *kernels = &job->kernels->of[t->dtype];
        if (!gathers_now(job, t))
            continue;
        if (t->rule->gathers >= FASTOPT_ALONE || together != t->hyper) {
            memset(sums, 0, sizeof sums);
            together = t->rule->gathers == FASTOPT_TOGETHER ? t->hyper : NULL;
            for (ptrdiff_t j = i; j < (together ? job->count : i + 1); j++)
                if (job->tensors[j].hyper == t->hyper)
                    add_pieces(job, j, MAX_SUMS, sums);
        }
        if (of_matrices(t))
            prepare_pass(job, t, job->made + 1, sums);
        else if (t->rule->gathers != FASTOPT_MATRICES)
            kernels->combine(t, sums);
    }
}

/* The passes of rules that gather, until all that is left is what rules of one pass do. */
static void gather(job *job)
{
    int passes = 0;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        const fastopt_tensor *t = &job->tensors[i];
        if (t->g && t->rule->passes > passes)
            passes = t->rule->passes;
        if (of_matrices(t))
            prepare_pass(job, &job->tensors[i], 0, NULL);
    }
    for (job->made = 0; job->made < passes; job->made++) {
        locate(job, GATHERED_PIECES);
        run(job, GATHERED_PIECES, sum_up);
        combine(job);
    }
}

/* ---- Matrices ---- */

/* Cuts a tensor into tiles, whose notes begin at `room`; returns how many doubles these take. */
static size_t cut_into_tiles(const fastopt_tensor *t, fastopt_matrices *m, double *room)
{
    *m = (fastopt_matrices){.matrices = 1, .rows = t->shape[t->ndim - 2], .columns = t->shape[t->ndim - 1]};
    int shared = 0;
    for (int s = 0; t->rule->state[s]; s++)
        shared |= t->rule->extent[s] == FASTOPT_AXES;
    for (int axis = 0; axis < t->ndim - 2; axis++)
        m->matrices *= t->shape[axis];
    for (int axis = 0; axis < t->ndim - 1; axis++)
        m->last_axis += t->shape[axis];
    m->column_tiles = (m->columns + TILE_COLUMNS - 1) / TILE_COLUMNS;
    m->strip_rows = TILE / (m->column_tiles > 1 ? TILE_COLUMNS : m->columns);
    if (m->strip_rows < TILE_ROWS)
        m->strip_rows = TILE_ROWS;
    const int whole_columns = m->strip_rows >= m->rows;
    if (!whole_columns) {
        m->strips = m->matrices * ((m->rows + m->strip_rows - 1) / m->strip_rows);
    } else {
        const ptrdiff_t together = m->column_tiles > 1 ? 1 : m->strip_rows / m->rows;
        m->strip_rows = together * m->rows;
        m->strips = (m->matrices + together - 1) / together;
    }

    const ptrdiff_t of_matrices = shared ? 0 : m->matrices;
    const ptrdiff_t of_rows = shared || m->column_tiles > 1 ? m->matrices * m->rows * m->column_tiles : 0;
    const ptrdiff_t of_columns = shared || !whole_columns ? m->strips * m->columns : 0;
    if (room) {
        m->of_matrices = of_matrices ? room : NULL;
        m->of_rows = of_rows ? room + of_matrices : NULL;
        m->of_columns = of_columns ? room + of_matrices + of_rows : NULL;
    }
    return (size_t)(of_matrices + of_rows + of_columns);
}

/* Makes room for what the passes over matrices tell each other; NULL for want of memory. */
static void *lay_out_matrices(job *job)
{
    size_t doubles = 0;
    fastopt_matrices m;
    for (ptrdiff_t i = 0; i < job->count; i++)
        if (of_matrices(&job->tensors[i]))
            doubles += cut_into_tiles(&job->tensors[i], &m, NULL);
    fastopt_matrices *all = malloc((size_t)job->matrices * sizeof *all + doubles * sizeof(double)), *next = all;
    if (!all)
        return NULL;
    double *room = (double *)(all + job->matrices);
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        if (of_matrices(t)) {
            t->engine.matrices = next;
            room += cut_into_tiles(t, next++, room);
        }
    }
    return all;
}

/* ---- The step ---- */

/* The last step, or round, that each row has met, or NULL; and the one at hand. */
static int64_t *met_by_rows(const fastopt_tensor *t, int64_t *now)
{
    *now = t->seen ? t->step : t->round;
    return t->seen ? t->seen : t->averaged_rows;
}

/* Where no row has missed a step, a whole gradient is one like any other. */
static void find_behind(job *job)
{
    int remembers = 0;
    for (ptrdiff_t i = 0; i < job->count; i++) {
        fastopt_tensor *t = &job->tensors[i];
        t->engine.behind = 0;
        if (!((uint64_t)(uintptr_t)t->seen | (uint64_t)t->round) || !t->g)
            continue;
        remembers = 1;
        int64_t now;
        const int64_t *met = met_by_rows(t, &now);
        const ptrdiff_t rows = met ? t->n / t->row_length : 0;
        ptrdiff_t row = 0;
        while (!t->rows && row < rows && met[row] == now - 1)
            row++;
        t->engine.behind = t->rows || row < rows;
    }
    job->remembers = remembers;
}

/* All rows of a tensor, or those that its gradient names, have met this step, or round. */
static void mark_rows(const fastopt_tensor *t, int64_t *met, int64_t now)
{
    const int64_t *rows = t->rows;
    const ptrdiff_t count = t->n / t->row_length;
    if (rows)
        for (ptrdiff_t row = 0; row < count; row++)
            met[rows[row]] = now;
    else
        for (ptrdiff_t row = 0; row < count; row++)
            met[row] = now;
}

/* Tensors with a gradient have met the step, or all steps before it. */
static void mark_met(const job *job, int64_t later)
{
    for (ptrdiff_t i = 0; i < (job->remembers ? job->count : 0); i++) {
        fastopt_tensor *t = &job->tensors[i];
        int64_t now, *met = met_by_rows(t, &now);
        if (!t->g)
            continue;
        if (met)
            mark_rows(t, met, now + later);
        t->averaged = t->round;
        if (t->round && t->step == 1)
            t->begun = t->round - 1;
    }
}

static int valid_call(const fastopt_call *call)
{
    return (!call->grad_scale || IN_RANGE(grad_scale, call->grad_scale)) &&
           (!call->clip_norm || IN_RANGE(clip_norm, call->clip_norm)) &&
           (!call->clip_value || IN_RANGE(clip_value, call->clip_value));
}

/* What comes before the update: factors and check of the gradients, scalars, passes that gather. */
static fastopt_status prepare(job *job, fastopt_call *call)
{
    find_factors(job, call);
    /* A finite norm has seen finite numbers alone; one that is not may itself be beyond the doubles. */
    if (call->check_finite && !(call->clip_norm && call->grad_norm <= DBL_MAX)) {
        run(job, ELEMENTS, check_finite);
        if (job->nonfinite)
            return FASTOPT_NONFINITE;
    }
    compute_scalars(job);
    if (job->gathers)
        gather(job);
    return FASTOPT_OK;
}

static fastopt_status step(job *job, fastopt_call *call)
{
    const int clips = call->clip_value && call->clip_value <= DBL_MAX;
    job->pass.clip_value = clips ? call->clip_value : INFINITY;
    job->pass.zero_grads = call->zero_grads;
    if (call->part == FASTOPT_UPDATE) {
        recall_factors(job);
    } else {
        const fastopt_status status = prepare(job, call);
        if (status != FASTOPT_OK)
            return status;
    }
    if (call->part == FASTOPT_GATHER) {
        keep_factors(job);
        return FASTOPT_OK;
    }
    job->pass.plain = !job->pass.own_scales && job->pass.scale == 1 && !clips && !call->zero_grads;
    find_behind(job);
    run(job, job->matrices ? ELEMENTS_LEFT : ELEMENTS, update);
    mark_met(job, 0);
    return FASTOPT_OK;
}

/* Whether GATHER has prepared this step of all tensors; it is used up. */
static int take_gathered(fastopt_tensor *tensors, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        if (tensors[i].g && tensors[i].engine.gathered != tensors[i].step)
            return 0;
    for (ptrdiff_t i = 0; i < count; i++)
        tensors[i].engine.gathered = 0;
    return 1;
}

fastopt_status fastopt_step_with(fastopt_tensor *tensors, ptrdiff_t count, fastopt_call *call)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    if (!valid_call(call))
        return FASTOPT_BAD_HYPER;
    fastopt_status status = check(tensors, count);
    if (status != FASTOPT_OK)
        return status;
    if (call->part == FASTOPT_UPDATE && !take_gathered(tensors, count))
        return FASTOPT_BAD_TENSOR;

    job job = {.kernels = kernels, .tensors = tensors, .count = count};
    locate(&job, ELEMENTS);
    job.elements = job.units;
    for (ptrdiff_t i = 0; i < count; i++)
        job.gathers |= tensors[i].g && tensors[i].rule->gathers;
    fastopt_sum few[FEW_PIECES][MAX_SUMS];
    void *matrices = NULL;
    job.sums = few;
    for (ptrdiff_t i = 0; job.gathers && i < count; i++)
        job.matrices += of_matrices(&tensors[i]);
    if ((job.gathers || call->clip_norm) && call->part != FASTOPT_UPDATE) {
        if (job.matrices && !(matrices = lay_out_matrices(&job)))
            return FASTOPT_NO_MEMORY;
        locate(&job, GATHERED_PIECES);
        const ptrdiff_t gathered = job.units;
        locate(&job, PIECES);
        const ptrdiff_t most = gathered > job.units ? gathered : job.units;
        if (most > FEW_PIECES && !(job.sums = malloc((size_t)most * sizeof *job.sums))) {
            free(matrices);
            return FASTOPT_NO_MEMORY;
        }
    }
    const int limit = most_threads(&job, call->num_threads);
    job.threads = call->tuner && limit > 1 ? fastopt_next_threads(call->tuner, limit) : limit;
    const double begin = call->tuner && limit > 1 ? fastopt_now() : 0;
    status = step(&job, call);
    if (status == FASTOPT_OK && call->tuner && limit > 1)
        fastopt_note_time(call->tuner, job.threads, (fastopt_now() - begin) / (double)job.elements);
    if (job.sums != few)
        free(job.sums);
    free(matrices);
    return status;
}

fastopt_status fastopt_step(fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    fastopt_call call = {.num_threads = num_threads};
    return fastopt_step_with(tensors, count, &call);
}

fastopt_status fastopt_catch_up(fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    const fastopt_status status = check(tensors, count);
    if (status != FASTOPT_OK)
        return status;
    job job = {.kernels = kernels, .tensors = tensors, .count = count};
    locate(&job, ELEMENTS);
    job.elements = job.units;
    job.threads = most_threads(&job, num_threads);
    job.remembers = 1;
    run(&job, ELEMENTS, catch_up);
    mark_met(&job, -1);
    return FASTOPT_OK;
}

fastopt_status fastopt_average(fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    for (ptrdiff_t i = 0; i < count; i++) {
        const fastopt_tensor *t = &tensors[i];
        if (!is_averaged_at_rest(t))
            continue;
        if (!t->rule || !t->p || t->n < 0 || (unsigned)t->dtype > FASTOPT_FLOAT64 || !valid_averages(t) ||
            !valid_rows(t))
            return FASTOPT_BAD_TENSOR;
        if (!valid_options(t->options))
            return FASTOPT_BAD_HYPER;
    }
    job job = {.kernels = kernels, .tensors = tensors, .count = count};
    locate(&job, ELEMENTS_AT_REST);
    job.elements = job.units;
    job.threads = most_threads(&job, num_threads);
    run(&job, ELEMENTS_AT_REST, average);
    for (ptrdiff_t i = 0; i < count; i++)
        if (is_averaged_at_rest(&tensors[i])) {
            tensors[i].averaged = tensors[i].round;
            if (tensors[i].averaged_rows)
                mark_rows(&tensors[i], tensors[i].averaged_rows, tensors[i].round);
        }
    return FASTOPT_OK;
}

int fastopt_finite(const fastopt_tensor *tensor)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    return !tensor->g || !kernels || kernels->of[tensor->dtype].finite(tensor, 0, tensor->n);
}
