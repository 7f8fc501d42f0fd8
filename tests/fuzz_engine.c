/* libFuzzer on the C API: random lists of tensors, layouts, rows, averages, options, calls and threads, some of them
 * malformed.
 *
 * Every step must give what the same tensors give one by one (in one list where they are summed up together),
 * contiguous, on one thread of the baseline, and write nothing between their elements; a malformed list or call must be
 * refused as documented, with nothing written.  With buffers in other formats it must give what load, a native step and
 * store give.
 *
 * tests/sanitize.py builds and runs it. */
#include "fastopt_testing.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

enum { MOST_TENSORS = 6, MOST_AXES = 4, MOST_ROWS = 12, MOST_BUFFERS = 1 + FASTOPT_MAX_STATE + 3 };

/* ---- The input, byte by byte; then what a generator makes of it, so that short inputs reach everything too ---- */

static const uint8_t *input, *input_end;
static uint64_t generator;

static unsigned byte(void)
{
    if (input < input_end)
        return *input++;
    generator ^= generator << 13;
    generator ^= generator >> 7;
    generator ^= generator << 17;
    return generator >> 32 & 0xff;
}

static int one_in(unsigned n)
{
    return byte() % n == 1;
}

/* ---- Values ---- */

static double special(unsigned choice, fastopt_dtype dtype)
{
    const double tiny = dtype == FASTOPT_FLOAT32 ? FLT_MIN : DBL_MIN,
                 huge = dtype == FASTOPT_FLOAT32 ? FLT_MAX : DBL_MAX;
    const double values[] = {0, -0.0, tiny, -tiny, tiny / 2, huge, -huge, INFINITY, -INFINITY, NAN};
    return values[choice % COUNT(values)];
}

static void put(void *at, fastopt_dtype dtype, double x)
{
    const float single = (float)x;
    if (dtype == FASTOPT_FLOAT32)
        memcpy(at, &single, sizeof single);
    else
        memcpy(at, &x, sizeof x);
}

static double get(const void *at, fastopt_dtype dtype)
{
    float single;
    double x;
    if (dtype == FASTOPT_FLOAT32) {
        memcpy(&single, at, sizeof single);
        return single;
    }
    memcpy(&x, at, sizeof x);
    return x;
}

static size_t size_of(fastopt_dtype dtype)
{
    return dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double);
}

static void *allocate(size_t size)
{
    void *memory = calloc(size, 1);
    REQUIRE(memory);
    return memory;
}

static void *copy(const void *memory, size_t size)
{
    return memcpy(allocate(size), memory, size);
}

/* A value in the range of a hyperparameter. */
static double good(const char *name)
{
    const double values[] = {0,   -0.0,        5e-324, 1e-300, 1e-40, 1e-8,  0.25,    0.5,
                             0.9, 1 - 0x1p-53, 1,      3,      1e30,  1e300, INFINITY};
    const fastopt_hyper *range = fastopt_find_hyper(name);
    const double x = values[byte() % COUNT(values)];
    return fastopt_in_range(range, x)      ? x
           : fastopt_in_range(range, 0.5)  ? 0.5
           : fastopt_in_range(range, -0.5) ? -0.5
                                           : 1.5;
}

/* ---- A tensor ---- */

/* The memory of a parameter, a state buffer or an average; and what must come of it: contiguous, in the order of the
 * walk. */
typedef struct {
    char *memory, *first, *wanted, *before;
    size_t bytes;
    ptrdiff_t n;
    int by_element;          /* whether it has an element for each of the parameter */
    const ptrdiff_t *stride; /* NULL: contiguous */
} buffer;

typedef struct {
    fastopt_tensor t, wanted;
    fastopt_layout layout;
    ptrdiff_t shape[3]; /* for rules of matrices */
    fastopt_options options;
    int64_t rows[MOST_ROWS], last_step[MOST_ROWS], wanted_last_step[MOST_ROWS], last_step_before[MOST_ROWS];
    int64_t wanted_rows[MOST_ROWS];
    const void *row_gradients[MOST_ROWS], *wanted_gradients[MOST_ROWS];
    double hyper[FASTOPT_MAX_HYPER], carry[FASTOPT_MAX_CARRY], wanted_carry[FASTOPT_MAX_CARRY];
    double largest_lr, wanted_largest_lr;
    size_t size, g_bytes; /* of an element; of the memory that g spans */
    int buffers;
    buffer of[MOST_BUFFERS];
    char *g_memory, *g_first, *g_wanted;
} subject;

/* Where element i of the walk lies, in bytes from the first one in memory. */
static ptrdiff_t offset(const subject *s, const ptrdiff_t *stride, ptrdiff_t i)
{
    if (!stride)
        return i * (ptrdiff_t)s->size;
    ptrdiff_t at = 0;
    for (int d = s->layout.ndim - 1; d >= 0; d--) {
        at += i % s->layout.shape[d] * stride[d];
        i /= s->layout.shape[d];
    }
    return at;
}

/* The same for the gradient, whose rows lie in memory the other way round. */
static ptrdiff_t g_place(const subject *s, ptrdiff_t i)
{
    if (s->t.rows)
        i = (s->t.n / s->t.row_length - 1 - i / s->t.row_length) * s->t.row_length + i % s->t.row_length;
    return offset(s, s->t.layout ? s->layout.g_stride : NULL, i);
}

static ptrdiff_t place(const subject *s, const buffer *b, ptrdiff_t i)
{
    if (s->t.rows && b->by_element)
        i = (ptrdiff_t)s->rows[i / s->t.row_length] * s->t.row_length + i % s->t.row_length;
    return offset(s, b->stride, i);
}

/* Strides of an array with these axes in a random order, gaps and directions, unaligned; with broadcast, axes of stride
 * 0 too.  Returns exactly the memory it spans, and where its first element is. */
static char *lay_out(subject *s, ptrdiff_t *stride, int broadcast, size_t *bytes, char **first)
{
    ptrdiff_t reach = (ptrdiff_t)s->size, below = 0;
    const int turn = (int)byte();
    for (int i = 0; i < s->layout.ndim; i++) {
        const int d = (i + turn) % s->layout.ndim;
        const ptrdiff_t gap = one_in(4) ? (ptrdiff_t)(byte() % 9) : 0;
        if (broadcast && one_in(4)) {
            stride[d] = 0;
            continue;
        }
        stride[d] = reach + gap;
        reach += (s->layout.shape[d] - 1) * stride[d];
        if (one_in(4)) {
            below += (s->layout.shape[d] - 1) * stride[d];
            stride[d] = -stride[d];
        }
    }
    const size_t shift = one_in(3) ? byte() % 8 : 0;
    *bytes = shift + (size_t)reach;
    char *memory = allocate(*bytes);
    memset(memory, 77, *bytes);
    *first = memory + shift + below;
    return memory;
}

/* A buffer of contiguous memory for these elements, one for each of the parameter or not. */
static buffer *new_buffer(subject *s, ptrdiff_t elements, int by_element)
{
    buffer *b = &s->of[s->buffers++];
    b->bytes = (size_t)elements * s->size;
    b->memory = b->first = allocate(b->bytes + !b->bytes);
    b->by_element = by_element;
    b->n = by_element ? s->t.n : elements;
    b->wanted = allocate((size_t)b->n * s->size + !b->n);
    return b;
}

/* Whether the decay of the rule is mixed into its step. */
static int mixes_decay(const fastopt_rule *rule)
{
    int mixes = 0;
    for (int i = 0; rule->hyper[i]; i++)
        mixes |= !strcmp(rule->hyper[i], "decay") && !rule->separate_decay;
    return mixes;
}

static void around(subject *s, fastopt_options *options)
{
    const fastopt_options none = {0};
    *options = none;
    s->t.options = options;
    options->weight_decay = one_in(2) ? good("weight_decay") : 0;
    options->decoupled_decay = one_in(3) ? good("weight_decay") : 0;
    options->independent_decay = one_in(3) ? good("weight_decay") : 0;
    options->cautious_decay = one_in(3) && !mixes_decay(s->t.rule);
    options->corrected_decay = one_in(3);
    options->peak_lr = one_in(2) ? good("lr") : 0;
    s->largest_lr = s->wanted_largest_lr = one_in(2) ? good("lr") : 0;
    s->t.largest_lr = one_in(4) ? NULL : &s->largest_lr;
    options->maximize = one_in(2);
    options->ema_decay = good("ema_decay");
    options->swa_start = one_in(4) ? INT64_MAX : 1 + byte() % 4;
    options->swa_every = one_in(4) ? INT64_MAX : 1 + byte() % 3;
    options->lookahead_every = one_in(4) ? INT64_MAX : 1 + byte() % 3;
    options->lookahead_rate = good("lookahead_rate");
}

/* Some rows of a table, in any order. */
static ptrdiff_t choose_rows(subject *s)
{
    const int rows = 1 + (int)byte() % MOST_ROWS, chosen = (int)byte() % (rows + 1), shift = (int)byte();
    for (int i = 0; i < chosen; i++)
        s->rows[i] = (i * 5 + shift) % 13 % rows;
    ptrdiff_t unique = 0;
    for (int i = 0; i < chosen; i++) {
        int known = 0;
        for (ptrdiff_t j = 0; j < unique; j++)
            known |= s->rows[j] == s->rows[i];
        if (!known)
            s->rows[unique++] = s->rows[i];
    }
    s->t.rows = s->rows;
    s->t.row_gradients = s->row_gradients;
    s->t.row_length = one_in(4) ? 1 + byte() * 9 : 1 + byte() % 5;
    s->t.n = unique * s->t.row_length;
    return rows * s->t.row_length;
}

static int can_catch_up(const fastopt_tensor *t)
{
    const fastopt_options *o = t->options;
    return fastopt_rule_catch_up(t->rule) &&
           (!o || (o->weight_decay == 0 && o->decoupled_decay == 0 && o->independent_decay == 0));
}

/* When each row was met last; for a gradient of all rows, or of those that were chosen. */
static void choose_seen(subject *s, ptrdiff_t elements)
{
    s->t.last_step = s->last_step;
    for (int i = 0; i < MOST_ROWS; i++)
        s->last_step[i] = s->t.step - 1 - (one_in(2) ? 0 : byte() % 5 < s->t.step ? byte() % 5 % s->t.step : 0);
    if (one_in(2)) {
        s->t.rows = NULL;
        s->t.n = elements;
    }
    for (ptrdiff_t i = 0; i < s->t.n / s->t.row_length; i++)
        s->wanted_last_step[i] = s->last_step[s->t.rows ? s->rows[i] : i];
}

static void make(subject *s, const subject *before, int large, int zeroing)
{
    static const ptrdiff_t small[] = {0, 1, 2, 3, 5, 8, 17, 31, 64, 65, 127, 128, 1023, 1024, 1025, 2050};
    static const ptrdiff_t chunks[] = {0, 1, 64, 5000, 16383, 16384, 16385, 40000};
    static const int64_t steps[] = {1, 2, 3, 10, 1000, INT64_C(1) << 31, INT64_C(1) << 40, INT64_MAX};
    int rules = 0;
    while (fastopt_rule_at(rules))
        rules++;
    memset(s, 0, sizeof *s);
    fastopt_tensor *t = &s->t;
    t->rule = fastopt_rule_at((int)byte() % rules);
    t->dtype = one_in(2) ? FASTOPT_FLOAT64 : FASTOPT_FLOAT32;
    s->size = size_of(t->dtype);
    t->step = steps[byte() % COUNT(steps)];
    t->carry = s->carry;
    for (int i = 0; i < FASTOPT_MAX_CARRY; i++)
        s->carry[i] = s->wanted_carry[i] = one_in(2) ? 0.25 : 0.5;
    t->hyper = s->hyper;
    for (int i = 0; t->rule->hyper[i]; i++)
        s->hyper[i] = good(t->rule->hyper[i]);
    if (before && before->t.rule == t->rule && one_in(2)) {
        t->hyper = before->t.hyper;
        t->step = one_in(4) ? t->step : before->t.step;
        t->dtype = one_in(4) ? t->dtype : before->t.dtype;
        s->size = size_of(t->dtype);
    }
    if (one_in(2))
        around(s, &s->options);

    ptrdiff_t elements; /* of the parameter and of its state */
    const unsigned form = byte() % 4;
    const int averaged = t->options && one_in(2);
    if (form < 2) {
        t->layout = &s->layout;
        s->layout.ndim = 1 + (int)(byte() % MOST_AXES);
        t->n = 1;
        for (int d = 0; d < s->layout.ndim; d++)
            t->n *= s->layout.shape[d] = 1 + byte() % (d ? 9 : 40);
        elements = t->n;
        buffer *p = new_buffer(s, 0, 1);
        free(p->memory);
        p->stride = s->layout.p_stride;
        p->memory = lay_out(s, s->layout.p_stride, 0, &p->bytes, &p->first);
        s->g_memory = lay_out(s, s->layout.g_stride, !zeroing, &s->g_bytes, &s->g_first);
    } else {
        if (form == 2 && !averaged && fastopt_rule_takes_rows(t->rule) &&
            t->rule->gathers != FASTOPT_BY_ROW) { /* its rows are looked at whole: tests/storage.c has these */
            elements = choose_rows(s);
            if (can_catch_up(t) && one_in(2))
                choose_seen(s, elements);
        } else
            elements = t->n = large ? chunks[byte() % COUNT(chunks)] : small[byte() % COUNT(small)];
        new_buffer(s, elements, 1);
        s->g_bytes = (size_t)t->n * s->size;
        s->g_memory = s->g_first = allocate(s->g_bytes + !s->g_bytes);
    }
    s->g_wanted = allocate((size_t)t->n * s->size + !t->n);
    s->shape[2] = t->rows ? t->row_length : t->n;
    if (t->rows) {
        s->shape[0] = elements / t->row_length;
        s->shape[1] = 1;
    }
    for (int d = 0; d < 2 && !t->rows; d++) {
        const ptrdiff_t factor = 2 + byte() % 40;
        s->shape[d] = s->shape[2] % factor == 0 ? factor : 1;
        s->shape[2] /= s->shape[d];
    }
    t->ndim = 3;
    t->shape = s->shape;
    for (int i = 0; t->rule->state[i]; i++) {
        const int whole = t->rule->extent[i] == FASTOPT_WHOLE;
        new_buffer(s, whole ? elements : fastopt_state_size(t->rule, i, t->ndim, t->shape), whole);
    }
    const int states = s->buffers;
    void **averages[] = {&t->ema, &t->swa, &t->slow};
    for (int i = 0; averaged && i < 3; i++)
        if (one_in(2))
            *averages[i] = new_buffer(s, elements, 1)->first;

    const unsigned seed = byte() << 8 | byte();
    const unsigned odd = one_in(3) ? byte() : 255, odd_g = one_in(3) ? byte() : 255;
    for (int b = 0; b < s->buffers; b++) {
        for (ptrdiff_t i = 0; i < s->of[b].n; i++) {
            const double x = sin((double)(seed + 3 * i)),
                         y = cos((double)(seed + 7 * i)) * pow(10, (double)(i % 9) - 6);
            put(s->of[b].first + place(s, &s->of[b], i), t->dtype,
                b && b < states                   ? fabs(x * y)
                : !b && i % 11 == (int)(odd % 16) ? special(odd / 16, t->dtype)
                                                  : x);
        }
    }
    for (ptrdiff_t i = 0; i < t->n; i++)
        put(s->g_first + g_place(s, i), t->dtype,
            i % 13 == (int)(odd_g % 16) ? special(odd_g / 16, t->dtype)
                                        : cos((double)(seed + 7 * i)) * pow(10, (double)(i % 9) - 6));

    t->p = s->of[0].first;
    t->g = s->g_first;
    s->wanted = *t;
    for (int i = 0; t->rule->state[i]; i++) {
        t->state[i] = s->of[1 + i].first;
        s->wanted.state[i] = s->of[1 + i].wanted;
    }
    int next = states;
    s->wanted.ema = t->ema ? s->of[next++].wanted : NULL;
    s->wanted.swa = t->swa ? s->of[next++].wanted : NULL;
    s->wanted.slow = t->slow ? s->of[next++].wanted : NULL;
    s->wanted.layout = NULL;
    for (ptrdiff_t i = 0; t->rows && i < t->n / t->row_length; i++)
        s->row_gradients[i] = s->g_first + g_place(s, i * t->row_length);
    /* A norm is summed up by rows. */
    for (ptrdiff_t i = 0; t->rows && i < t->n / t->row_length; i++) {
        s->wanted_rows[i] = i;
        s->wanted_gradients[i] = s->g_wanted + i * t->row_length * (ptrdiff_t)s->size;
    }
    s->wanted.rows = t->rows ? s->wanted_rows : NULL;
    s->wanted.row_gradients = s->wanted_gradients;
    s->wanted.last_step = t->last_step ? s->wanted_last_step : NULL;
    s->wanted.carry = s->wanted_carry;
    s->wanted.largest_lr = t->largest_lr ? &s->wanted_largest_lr : NULL;
    s->wanted.p = s->of[0].wanted;
    s->wanted.g = s->g_wanted;
    for (buffer *b = s->of; b < s->of + s->buffers; b++)
        for (ptrdiff_t i = 0; i < b->n; i++)
            memcpy(b->wanted + i * (ptrdiff_t)s->size, b->first + place(s, b, i), s->size);
    for (ptrdiff_t i = 0; i < t->n; i++)
        memcpy(s->g_wanted + i * (ptrdiff_t)s->size, s->g_first + g_place(s, i), s->size);
    if (one_in(8))
        t->g = s->wanted.g = NULL;
}

static void release(subject *s)
{
    for (int b = 0; b < s->buffers; b++) {
        free(s->of[b].memory);
        free(s->of[b].wanted);
    }
    free(s->g_memory);
    free(s->g_wanted);
}

static int all_finite(const subject *s)
{
    for (ptrdiff_t i = 0; i < s->t.n; i++)
        if (!isfinite(get(s->g_wanted + i * (ptrdiff_t)s->size, s->t.dtype)))
            return 0;
    return 1;
}

/* Equal to the bit, or both NaN; then made equal, so that the memory around can be compared as a whole. */
static void require_same(char *actual, const char *wanted, const subject *s)
{
    const double x = get(actual, s->t.dtype), y = get(wanted, s->t.dtype);
    REQUIRE(!memcmp(actual, wanted, s->size) || (isnan(x) && isnan(y)));
    memcpy(actual, wanted, s->size);
}

static void remember(subject *s)
{
    memcpy(s->last_step_before, s->last_step, sizeof s->last_step);
    for (int b = 0; b < s->buffers; b++)
        s->of[b].before = copy(s->of[b].memory, s->of[b].bytes + !s->of[b].bytes);
}

/* Every buffer and carried number is the wanted one, and the memory between them is as it was; so is the gradient, but
 * for one that had to be set to zero. */
static void check(subject *s, char *g_before, int zeroed)
{
    for (buffer *b = s->of; b < s->of + s->buffers; b++) {
        const ptrdiff_t first = b->first - b->memory;
        for (ptrdiff_t i = 0; i < b->n; i++) {
            const char *wanted = b->wanted + i * (ptrdiff_t)s->size;
            const ptrdiff_t at = place(s, b, i);
            require_same(b->first + at, wanted, s);
            memcpy(b->before + first + at, wanted, s->size);
        }
        REQUIRE(!memcmp(b->before, b->memory, b->bytes));
        free(b->before);
    }
    for (ptrdiff_t i = 0; s->t.last_step && i < s->t.n / s->t.row_length; i++)
        s->last_step_before[s->t.rows ? s->rows[i] : i] = s->wanted_last_step[i];
    REQUIRE(!memcmp(s->last_step_before, s->last_step, sizeof s->last_step));
    if (zeroed && s->t.g && !s->t.rows)
        for (ptrdiff_t i = 0; i < s->t.n; i++)
            memset(g_before + (s->g_first - s->g_memory) + g_place(s, i), 0, s->size);
    REQUIRE(!memcmp(g_before, s->g_memory, s->g_bytes));
    REQUIRE(s->largest_lr == s->wanted_largest_lr);
    for (int i = 0; s->t.rule->carry[i]; i++)
        REQUIRE(s->carry[i] == s->wanted_carry[i] || (isnan(s->carry[i]) && isnan(s->wanted_carry[i])));
}

/* ---- What must be refused ---- */

static double bad_hyper[FASTOPT_MAX_HYPER];
static fastopt_options bad_options;
static const fastopt_options good_options = {.swa_start = 1, .swa_every = 1, .lookahead_every = 1};
static const int64_t no_row = 0;
static int64_t some_seen;

/* Spoils a tensor in one way; returns how the list must be refused. */
static fastopt_status spoil(fastopt_tensor *t)
{
    static const double bad[] = {-1, -5e-324, NAN, -INFINITY};
    const fastopt_hyper *range;
    double *numbers[6];
    int buffers = 0, hypers = 0, which;
    while (t->rule->state[buffers])
        buffers++;
    while (t->rule->hyper[hypers])
        hypers++;
    switch (byte() % 13) {
    case 0:
        t->rule = NULL;
        return FASTOPT_BAD_TENSOR;
    case 1:
        t->p = NULL;
        return FASTOPT_BAD_TENSOR;
    case 2:
        t->hyper = NULL;
        return FASTOPT_BAD_TENSOR;
    case 3:
        t->n = one_in(2) ? PTRDIFF_MIN : -1;
        return FASTOPT_BAD_TENSOR;
    case 4:
        t->step = one_in(3) ? INT64_MIN : -(int64_t)byte();
        return FASTOPT_BAD_TENSOR;
    case 5:
        memset(&t->dtype, one_in(2) ? 0xff : 0x02, sizeof t->dtype);
        return FASTOPT_BAD_TENSOR;
    case 6:
        memcpy(bad_hyper, t->hyper, (size_t)hypers * sizeof(double));
        hypers = (int)byte() % hypers;
        range = fastopt_find_hyper(t->rule->hyper[hypers]);
        bad_hyper[hypers] = bad[byte() % COUNT(bad)];
        if (one_in(2) && isfinite(range->high))
            bad_hyper[hypers] = range->closed ? nextafter(range->high, INFINITY) : range->high;
        if (fastopt_in_range(range, bad_hyper[hypers])) /* some may be negative */
            bad_hyper[hypers] = NAN;
        t->hyper = bad_hyper;
        return FASTOPT_BAD_HYPER;
    case 7:
        bad_options = good_options;
        numbers[0] = &bad_options.weight_decay;
        numbers[1] = &bad_options.decoupled_decay;
        numbers[2] = &bad_options.independent_decay;
        numbers[3] = &bad_options.ema_decay;
        numbers[4] = &bad_options.lookahead_rate;
        numbers[5] = &bad_options.peak_lr;
        which = (int)(byte() % COUNT(numbers));
        *numbers[which] = one_in(4) ? INFINITY : bad[byte() % COUNT(bad)];
        t->options = &bad_options;
        return t->last_step && which < 3 ? FASTOPT_BAD_TENSOR : FASTOPT_BAD_HYPER; /* no decay goes with last_step */
    case 8:
        if (t->rule->carry[0]) {
            t->carry = NULL;
            return FASTOPT_BAD_TENSOR;
        }
        /* fall through */
    case 9:
        if (t->rows) {
            if (one_in(2))
                t->row_gradients = NULL;
            else
                t->row_length = t->n ? t->n + 1 : -1;
            return FASTOPT_BAD_TENSOR;
        }
        if (one_in(2)) {
            t->last_step = &some_seen;
            t->row_length = one_in(2) ? 0 : t->n + 1;
            if (t->n && one_in(2)) {
                bad_options = good_options;
                bad_options.weight_decay = 0.1;
                t->options = &bad_options;
                t->row_length = t->n;
            }
            return t->n || t->row_length < 1 ? FASTOPT_BAD_TENSOR : (t->p = NULL, FASTOPT_BAD_TENSOR);
        }
        t->rows = &no_row;
        t->row_length = one_in(2) ? 0 : -1;
        return FASTOPT_BAD_TENSOR;
    case 10:
        t->rows = NULL;
        bad_options = good_options;
        t->options = one_in(3) ? NULL : &bad_options;
        t->swa = t->slow = t->p;
        *(one_in(2)   ? &bad_options.swa_start
          : one_in(2) ? &bad_options.swa_every
                      : &bad_options.lookahead_every) = one_in(2) ? 0 : INT64_MIN;
        return FASTOPT_BAD_TENSOR;
    case 11: {
        static const uint8_t not_of_all[] = {FASTOPT_AS_FLOAT64, FASTOPT_SPLIT8, FASTOPT_MASTER_FLOAT16, 11, 255};
        if (one_in(4))
            t->formats.unused[one_in(2)] = 1;
        else if (one_in(3) && buffers)
            t->formats.state[(int)byte() % buffers] = not_of_all[byte() % COUNT(not_of_all)];
        else
            t->formats.p = not_of_all[byte() % COUNT(not_of_all)]; /* without its rest, where there is one */
        return FASTOPT_BAD_TENSOR;
    }
    default:
        if (buffers)
            t->state[(int)byte() % buffers] = NULL;
        else
            t->step = 0;
        return FASTOPT_BAD_TENSOR;
    }
}

static void spoil_call(fastopt_call *call)
{
    static const double bad[] = {-1, -0x1p-1074, NAN, -INFINITY};
    const double x = bad[byte() % COUNT(bad)];
    switch (byte() % 3) {
    case 0:
        call->grad_scale = one_in(3) ? INFINITY : x;
        break;
    case 1:
        call->clip_norm = x;
        break;
    default:
        call->clip_value = x;
    }
}

/* ---- Rows that come more than once ---- */

static void check_rows(void)
{
    enum { MOST = 40, LIMIT = 9 };
    int64_t rows[MOST], unique[MOST];
    ptrdiff_t places[MOST];
    double values[MOST][2], sums[MOST][2], wanted[MOST][2] = {0};
    const void *gradients[MOST] = {NULL};
    const ptrdiff_t count = byte() % (MOST + 1);
    const int64_t beyond[] = {-1, LIMIT, INT64_MIN, INT64_MAX};
    const int spoiled = count && one_in(4);
    for (ptrdiff_t i = 0; i < count; i++) {
        rows[i] = byte() % LIMIT;
        values[i][0] = byte();
        values[i][1] = byte() / 256.0;
    }
    if (spoiled)
        rows[byte() % (unsigned)count] = beyond[byte() % COUNT(beyond)];
    const ptrdiff_t found = fastopt_unique_rows(rows, count, LIMIT, unique, places);
    REQUIRE(spoiled ? found == FASTOPT_ROWS_BEYOND : found >= 0 && found <= count);
    if (spoiled)
        return;
    for (ptrdiff_t i = 0, first = 0; i < count; i++) {
        REQUIRE(places[i] <= first && unique[places[i]] == rows[i]); /* in the order in which they come */
        first += places[i] == first;
        for (ptrdiff_t j = 0; j < i; j++)
            REQUIRE((rows[i] == rows[j]) == (places[i] == places[j]));
        wanted[places[i]][0] += values[i][0];
        wanted[places[i]][1] += values[i][1];
    }
    fastopt_row_gradients(FASTOPT_FLOAT64, values, places, count, 2, gradients, sums);
    for (ptrdiff_t i = 0; i < found; i++)
        REQUIRE(!memcmp(gradients[i], wanted[i], sizeof *wanted));
}

/* ---- Buffers in other formats ---- */

/* A tensor whose buffers may have any format; buffer 0 is p, 1 is g, the others are the state. */
enum { STORED_BUFFERS = 2 + FASTOPT_MAX_STATE };
typedef struct {
    fastopt_tensor t;
    int count; /* of buffers */
    char *data[STORED_BUFFERS], *rest[STORED_BUFFERS];
    double carry[FASTOPT_MAX_CARRY];
} stored;

static int format_at(const stored *s, int b)
{
    return b == 0 ? s->t.formats.p : b == 1 ? s->t.formats.g : s->t.formats.state[b - 2];
}

/* The elements of a buffer. */
static ptrdiff_t elements_of(const stored *s, int b)
{
    return b < 2 ? s->t.n : fastopt_state_size(s->t.rule, b - 2, s->t.ndim, s->t.shape);
}

static size_t bytes_of(const stored *s, int b)
{
    const int format = format_at(s, b);
    return format ? (size_t)fastopt_format_at(format)->bytes : size_of(s->t.dtype);
}

static size_t rest_size(const stored *s, int b)
{
    const fastopt_format_info *info = fastopt_format_at(format_at(s, b));
    return (size_t)((elements_of(s, b) + info->group - 1) / info->group * info->rest_bytes);
}

static void point(stored *s)
{
    s->t.p = s->data[0];
    s->t.p_rest = s->rest[0];
    s->t.g = s->data[1];
    for (int b = 2; b < s->count; b++) {
        s->t.state[b - 2] = s->data[b];
        s->t.state_rest[b - 2] = s->rest[b];
    }
    s->t.carry = s->carry;
}

static stored copy_stored(const stored *from)
{
    stored to = *from;
    for (int b = 0; b < to.count; b++) {
        to.data[b] = copy(from->data[b], (size_t)elements_of(from, b) * bytes_of(from, b) + 1);
        to.rest[b] = copy(from->rest[b], rest_size(from, b) + 1);
    }
    return to;
}

static void release_stored(stored *s)
{
    for (int b = 0; b < s->count; b++) {
        free(s->data[b]);
        free(s->rest[b]);
    }
}

/* Stores native elements, rounded to nearest; doubles by way of float. */
static void store(const stored *s, int b, const char *native)
{
    const int format = format_at(s, b);
    const ptrdiff_t n = elements_of(s, b);
    if (!format || (format == FASTOPT_AS_FLOAT64 && s->t.dtype == FASTOPT_FLOAT64)) {
        memcpy(s->data[b], native, (size_t)n * size_of(s->t.dtype));
        return;
    }
    float *x = allocate((size_t)n * sizeof *x + 1);
    for (ptrdiff_t i = 0; i < n; i++) {
        const double value = get(native + (size_t)i * size_of(s->t.dtype), s->t.dtype);
        x[i] = s->t.dtype == FASTOPT_FLOAT64 && fabs(value) < FLT_MIN ? (float)copysign(0, value) : (float)value;
    }
    REQUIRE(fastopt_encode((fastopt_format)format, x, n, s->data[b], s->rest[b]) == FASTOPT_OK);
    free(x);
}

/* The elements of a buffer, native, in memory of their own. */
static char *load(const stored *s, int b)
{
    const int format = format_at(s, b);
    const ptrdiff_t n = elements_of(s, b);
    const size_t size = size_of(s->t.dtype);
    char *native = allocate((size_t)n * size + 1);
    if (!format || (format == FASTOPT_AS_FLOAT64 && s->t.dtype == FASTOPT_FLOAT64)) {
        memcpy(native, s->data[b], (size_t)n * size);
        return native;
    }
    float *x = allocate((size_t)n * sizeof *x + 1);
    REQUIRE(fastopt_decode((fastopt_format)format, s->data[b], s->rest[b], n, x) == FASTOPT_OK);
    for (ptrdiff_t i = 0; i < n; i++)
        put(native + (size_t)i * size, s->t.dtype,
            s->t.dtype == FASTOPT_FLOAT64 && fabsf(x[i]) < FLT_MIN ? copysign(0, (double)x[i]) : (double)x[i]);
    free(x);
    return native;
}

/* A step by its definition: load, native step, store, rounded to nearest; a rule that gathers and writes its state then
 * has it stored and loaded between. */
static fastopt_status define_step(stored *s, fastopt_call call)
{
    char *native[STORED_BUFFERS];
    fastopt_tensor t = s->t;
    memset(&t.formats, 0, sizeof t.formats);
    t.layout = NULL;
    call.num_threads = 1;
    call.part = t.rule->gather_writes ? FASTOPT_GATHER : FASTOPT_ALL;
    for (int b = 0; b < s->count; b++)
        native[b] = load(s, b);
    t.p = native[0];
    t.g = native[1];
    for (int b = 2; b < s->count; b++)
        t.state[b - 2] = native[b];
    fastopt_status status = fastopt_step_with(&t, 1, &call);
    if (t.rule->gather_writes && status == FASTOPT_OK) {
        for (int b = 2; b < s->count; b++) {
            store(s, b, native[b]);
            free(native[b]);
            t.state[b - 2] = native[b] = load(s, b);
        }
        call.part = FASTOPT_UPDATE;
        status = fastopt_step_with(&t, 1, &call);
    }
    for (int b = 0; b < s->count; b++) {
        if (status == FASTOPT_OK && b != 1 && !(b && t.rule->gather_writes))
            store(s, b, native[b]);
        free(native[b]);
    }
    return status;
}

static int same_numbers(const char *a, const char *b, size_t bytes, fastopt_dtype dtype)
{
    for (size_t i = 0; i < bytes; i += size_of(dtype))
        if (memcmp(a + i, b + i, size_of(dtype)) && !(isnan(get(a + i, dtype)) && isnan(get(b + i, dtype))))
            return 0;
    return 1;
}

/* Equal to the bit; where NaN is not stored as one pattern, both may be NaN. */
static void require_same_stored(const stored *a, const stored *b)
{
    for (int i = 0; i < a->count; i++) {
        const int format = format_at(a, i);
        const size_t bytes = (size_t)elements_of(a, i) * bytes_of(a, i), rest = rest_size(a, i);
        const fastopt_dtype dtype = format ? FASTOPT_FLOAT32 : a->t.dtype;
        if (format == FASTOPT_NATIVE || format == FASTOPT_AS_FLOAT32) {
            REQUIRE(same_numbers(a->data[i], b->data[i], bytes, dtype));
        } else if (format == FASTOPT_AS_FLOAT16 || format == FASTOPT_MASTER_FLOAT16) {
            for (size_t k = 0; k < bytes; k += 2) {
                uint16_t x, y;
                memcpy(&x, a->data[i] + k, 2);
                memcpy(&y, b->data[i] + k, 2);
                REQUIRE(x == y || ((x & 0x7fff) > 0x7c00 && (y & 0x7fff) > 0x7c00));
            }
        } else
            REQUIRE(!memcmp(a->data[i], b->data[i], bytes));
        if (rest && fastopt_format_at(format)->rest_bytes == 4)
            REQUIRE(same_numbers(a->rest[i], b->rest[i], rest, FASTOPT_FLOAT32));
        else
            REQUIRE(!memcmp(a->rest[i], b->rest[i], rest));
    }
    for (int i = 0; a->t.rule->carry[i]; i++)
        REQUIRE(a->carry[i] == b->carry[i] || (isnan(a->carry[i]) && isnan(b->carry[i])));
}

/* Every other element of p, and g backwards, in memory of their own; or back. */
static void spread(const stored *s, char *p, char *g, int back)
{
    const size_t of_p = bytes_of(s, 0), of_g = bytes_of(s, 1);
    for (ptrdiff_t i = 0; i < s->t.n; i++) {
        char *far_p = p + 2 * (size_t)i * of_p, *here = s->data[0] + (size_t)i * of_p;
        memcpy(back ? here : far_p, back ? far_p : here, of_p);
        memcpy(g + (size_t)(s->t.n - 1 - i) * of_g, s->data[1] + (size_t)i * of_g, of_g);
    }
}

/* The same step of two parts of a tensor, cut at a group. */
static fastopt_status step_in_parts(stored *s, ptrdiff_t cut, fastopt_call *call)
{
    fastopt_tensor parts[2] = {s->t, s->t};
    double carry[FASTOPT_MAX_CARRY];
    memcpy(carry, s->carry, sizeof carry);
    parts[0].n = cut;
    parts[1].n = s->t.n - cut;
    parts[1].offset += cut;
    parts[1].carry = carry;
    parts[1].p = s->data[0] + (size_t)cut * bytes_of(s, 0);
    parts[1].p_rest = s->rest[0] + cut * fastopt_format_at(s->t.formats.p)->rest_bytes;
    parts[1].g = s->data[1] + (size_t)cut * bytes_of(s, 1);
    for (int b = 2; b < s->count; b++) {
        const fastopt_format_info *info = fastopt_format_at(format_at(s, b));
        parts[1].state[b - 2] = s->data[b] + (size_t)cut * bytes_of(s, b);
        parts[1].state_rest[b - 2] = s->rest[b] + cut / info->group * info->rest_bytes;
    }
    return fastopt_step_with(parts, 2, call);
}

/* A format that a buffer can have. */
static uint8_t choose_format(const fastopt_tensor *t, int b)
{
    const uint8_t format = byte() % 11;
    const fastopt_format_info *info = fastopt_format_at(format);
    if (b == 0)
        return info->of_p && t->dtype == FASTOPT_FLOAT32 ? format : FASTOPT_NATIVE;
    if (b == 1)
        return info->of_g ? format : FASTOPT_NATIVE;
    const fastopt_kind kind = t->rule->kind[b - 2];
    const int may = kind == FASTOPT_SIGNED ? info->of_signed : kind == FASTOPT_NONNEGATIVE && info->of_nonnegative;
    return may && t->rule->extent[b - 2] == FASTOPT_WHOLE && (info->group == 1 || t->rule->gathers != FASTOPT_MATRICES)
               ? format
               : FASTOPT_NATIVE;
}

static void fill_stored(const stored *s, int b, int64_t step)
{
    const size_t size = size_of(s->t.dtype);
    const unsigned seed = byte(), odd = one_in(4) ? byte() : 255;
    char *native = allocate((size_t)elements_of(s, b) * size + 1);
    for (ptrdiff_t i = 0; i < elements_of(s, b); i++) {
        const double x = sin((double)(seed + 3 * i)) * pow(10, (double)((i + step) % 9) - 6);
        put(native + (size_t)i * size, s->t.dtype,
            b < 2 && i % 97 == (int)(odd % 16) ? special(odd / 16, s->t.dtype)
            : b < 2                            ? x
                                               : fabs(x));
    }
    store(s, b, native);
    free(native);
}

/* Steps of one tensor with random formats: on any instruction set and threads, contiguous or strided, they are those of
 * the baseline on one thread; so are those of its parts, and where it rounds to nearest they are as defined. */
static void check_formats(const char *isa)
{
    static const ptrdiff_t sizes[] = {0, 1, 2, 63, 64, 65, 127, 128, 129, 383, 384, 385, 1000, 1024, 2500, 5000};
    subject around_it = {0};
    fastopt_options options;
    double hyper[FASTOPT_MAX_HYPER];
    stored one = {0};
    fastopt_tensor *t = &one.t;
    int rules = 0;
    while (fastopt_rule_at(rules))
        rules++;
    around_it.t.rule = t->rule = fastopt_rule_at((int)byte() % rules);
    t->dtype = one_in(3) ? FASTOPT_FLOAT64 : FASTOPT_FLOAT32;
    t->n = sizes[byte() % COUNT(sizes)];
    const ptrdiff_t factor = 2 + byte() % 40, rows = t->n % factor ? 1 : factor, shape[] = {rows, t->n / rows};
    t->ndim = 2;
    t->shape = shape;
    for (int i = 0; t->rule->hyper[i]; i++)
        hyper[i] = good(t->rule->hyper[i]);
    t->hyper = hyper;
    if (one_in(2)) {
        around(&around_it, &options);
        t->options = &options;
    }
    t->rounding = one_in(2) ? FASTOPT_STOCHASTIC : FASTOPT_NEAREST;
    t->seed = byte();
    t->key = byte();
    t->offset = 64 * (byte() % 3);
    one.count = 2;
    while (one.count < STORED_BUFFERS && t->rule->state[one.count - 2])
        one.count++;
    for (int b = 0; b < one.count; b++)
        *(b == 0 ? &t->formats.p : b == 1 ? &t->formats.g : &t->formats.state[b - 2]) = choose_format(t, b);
    for (int i = 0; i < FASTOPT_MAX_CARRY; i++)
        one.carry[i] = 0.5;
    for (int b = 0; b < one.count; b++) {
        one.data[b] = allocate((size_t)elements_of(&one, b) * bytes_of(&one, b) + 1);
        one.rest[b] = allocate(rest_size(&one, b) + 1);
        fill_stored(&one, b, 0);
    }
    stored base = copy_stored(&one), defined = copy_stored(&one), parts = copy_stored(&one);
    const int strided = one_in(2), cuts = t->rule->gathers == FASTOPT_ONE_PASS && t->n > 64;
    const ptrdiff_t cut = cuts ? 64 * (1 + byte() % ((t->n - 1) / 64)) : 0;
    fastopt_layout layout = {.ndim = 1, .shape = {t->n}};
    layout.p_stride[0] = 2 * (ptrdiff_t)bytes_of(&one, 0);
    layout.g_stride[0] = -(ptrdiff_t)bytes_of(&one, 1);
    char *p = allocate(2 * (size_t)t->n * bytes_of(&one, 0) + 1), *g = allocate((size_t)t->n * bytes_of(&one, 1) + 1);
    for (int64_t step = 1 + byte() % 3, last = step + 2; step <= last; step++) {
        fastopt_call call = {.num_threads = 1, .check_finite = one_in(4)};
        if (one_in(3)) {
            call.grad_scale = one_in(2) ? 8 : 0;
            call.clip_norm = one_in(2) ? 0.5 : 0;
            call.clip_value = one_in(2) ? 0.1 : 0;
        }
        fill_stored(&one, 1, step);
        stored *const all[] = {&one, &base, &defined, &parts};
        for (size_t i = 0; i < COUNT(all); i++) {
            memcpy(all[i]->data[1], one.data[1], (size_t)t->n * bytes_of(&one, 1));
            point(all[i]);
            all[i]->t.step = step;
        }
        REQUIRE(fastopt_use_isa("baseline"));
        const fastopt_status status = fastopt_step_with(&base.t, 1, &call);
        REQUIRE(status == FASTOPT_OK || (status == FASTOPT_NONFINITE && call.check_finite));
        if (t->rounding == FASTOPT_NEAREST) {
            REQUIRE(define_step(&defined, call) == status);
            require_same_stored(&defined, &base);
        }
        REQUIRE(fastopt_use_isa(isa));
        if (cuts && !call.clip_norm) {
            REQUIRE(step_in_parts(&parts, cut, &call) == status);
            require_same_stored(&parts, &base);
        }
        if (strided && t->n) {
            spread(&one, p, g, 0);
            t->p = p;
            t->g = g + (size_t)(t->n - 1) * bytes_of(&one, 1);
            t->layout = &layout;
        }
        call.num_threads = 1 + byte() % 4;
        REQUIRE(fastopt_step_with(t, 1, &call) == status);
        if (strided && t->n)
            spread(&one, p, g, 1);
        require_same_stored(&one, &base);
        if (cuts && call.clip_norm) { /* a norm of parts is summed up otherwise */
            release_stored(&parts);
            parts = copy_stored(&base);
        }
    }
    free(p);
    free(g);
    release_stored(&one);
    release_stored(&base);
    release_stored(&defined);
    release_stored(&parts);
}

/* ---- One input ---- */

/* Have the rows of a tensor make up for the steps that they have missed, on several threads and on one. */
static void catch_up(subject *s, const char *isa, int num_threads)
{
    if (!s->t.last_step || s->t.rows)
        return;
    fastopt_tensor t = s->t, wanted = s->wanted;
    t.g = t.p;
    wanted.g = wanted.p;
    REQUIRE(fastopt_use_isa(isa));
    REQUIRE(fastopt_catch_up(&t, 1, num_threads) == FASTOPT_OK);
    REQUIRE(fastopt_use_isa("baseline"));
    REQUIRE(fastopt_catch_up(&wanted, 1, 1) == FASTOPT_OK);
}

/* The step as it must be: one tensor after the other, or all in a list of their own where sums join them. */
static void step_wanted(subject *subjects, int count, fastopt_call call, int joined)
{
    fastopt_tensor list[MOST_TENSORS];
    call.num_threads = 1;
    call.tuner = NULL;
    for (int i = 0; i < count; i++) {
        list[i] = subjects[i].wanted;
        if (joined)
            continue;
        list[i].rows = NULL;
        REQUIRE(fastopt_step_with(&list[i], 1, &call) == FASTOPT_OK);
    }
    if (joined)
        REQUIRE(fastopt_step_with(list, count, &call) == FASTOPT_OK);
    for (int i = 0; i < count; i++) {
        fastopt_tensor *t = &subjects[i].t;
        if (t->rows && t->g && call.zero_grads) /* which that of rows is not */
            for (ptrdiff_t k = 0; k < t->n; k++)
                memcpy(subjects[i].g_wanted + k * (ptrdiff_t)subjects[i].size,
                       subjects[i].g_first + g_place(&subjects[i], k), subjects[i].size);
        t->step += t->g && t->step < INT64_MAX;
        subjects[i].wanted.step = t->step;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int threads[] = {1, 2, 3, 0, -1, 7, 300, 1 << 30};
    static const double scales[] = {0, 0, 1, 2, 1024, 3, DBL_MIN, DBL_MAX},
                        clips[] = {0, 0, 0, 1e-3, 1, DBL_MIN, DBL_MAX, INFINITY};
    input = data;
    input_end = data + size;
    generator = UINT64_C(0x9e3779b97f4a7c15);
    for (size_t i = 0; i < size; i++)
        generator = (generator ^ data[i]) * UINT64_C(0x100000001b3);
    generator |= 1;
    if (one_in(8))
        check_rows();
    const int large = one_in(16), zeroing = one_in(4);
    const int count = 1 + (int)byte() % MOST_TENSORS;
    subject *subjects = allocate((size_t)count * sizeof *subjects);
    fastopt_tensor *list = allocate((size_t)count * sizeof *list);
    int joined = 0;
    for (int i = 0; i < count; i++) {
        make(&subjects[i], i ? &subjects[i - 1] : NULL, large, zeroing);
        joined |= subjects[i].t.rule->gathers == FASTOPT_BY_GROUP;
    }
    int isas = 0;
    while (fastopt_isa_at(isas))
        isas++;
    const char *isa = fastopt_isa_at((int)byte() % isas);
    if (one_in(4))
        check_formats(isa);
    fastopt_tuner tuner = {0};

    for (int rounds = 1 + (int)byte() % 3; rounds > 0; rounds--) {
        fastopt_call call = {.num_threads = threads[byte() % COUNT(threads)],
                             .tuner = one_in(2) ? &tuner : NULL,
                             .check_finite = one_in(3),
                             .zero_grads = zeroing && one_in(2)};
        if (one_in(3)) {
            call.grad_scale = scales[byte() % COUNT(scales)];
            call.clip_norm = clips[byte() % COUNT(clips)];
            call.clip_value = clips[byte() % COUNT(clips)];
        }
        fastopt_status wanted = FASTOPT_OK;
        char *g_before[MOST_TENSORS];
        for (int i = 0; i < count; i++) {
            if (one_in(4))
                catch_up(&subjects[i], isa, call.num_threads);
            list[i] = subjects[i].t;
            remember(&subjects[i]);
            g_before[i] = copy(subjects[i].g_memory, subjects[i].g_bytes + !subjects[i].g_bytes);
            REQUIRE(fastopt_finite(&list[i]) == (!list[i].g || all_finite(&subjects[i])));
            if (call.check_finite && !fastopt_finite(&list[i]))
                wanted = FASTOPT_NONFINITE;
        }
        fastopt_call right = call;
        fastopt_tensor *spoiled = &list[byte() % (unsigned)count];
        if (one_in(4) && spoiled->g)
            wanted = spoil(spoiled);
        if (one_in(16)) {
            wanted = FASTOPT_BAD_HYPER; /* the call is looked at first */
            spoil_call(&call);
        }

        REQUIRE(fastopt_use_isa(isa));
        const int in_two = one_in(4);
        call.part = in_two ? FASTOPT_GATHER : FASTOPT_ALL;
        REQUIRE(fastopt_step_with(list, count, &call) == wanted);
        call.part = FASTOPT_UPDATE;
        if (in_two && wanted == FASTOPT_OK)
            REQUIRE(fastopt_step_with(list, count, &call) == FASTOPT_OK);
        volatile double tiny = DBL_MIN;
        REQUIRE(tiny / 2 > 0);
        REQUIRE(fastopt_use_isa("baseline"));
        if (wanted == FASTOPT_OK)
            step_wanted(subjects, count, right, joined || call.clip_norm != 0);
        for (int i = 0; i < count; i++) {
            check(&subjects[i], g_before[i], wanted == FASTOPT_OK && call.zero_grads);
            free(g_before[i]);
        }
    }
    for (int i = 0; i < count; i++) {
        if (!subjects[i].t.layout && !subjects[i].t.rows && subjects[i].t.g)
            REQUIRE(fastopt_traffic(&subjects[i].t, 1 + (int)byte() % 3) == FASTOPT_OK);
        release(&subjects[i]);
    }
    free(list);
    free(subjects);
    return 0;
}
