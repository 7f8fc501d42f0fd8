/* Steps of tensors with every format, against the definition: all buffers are loaded, a native step is made, all are
 * stored.  Prints every case that differs, and exits with their number.  Includes itself once for each dtype. */
#ifndef T
#include "fastopt_testing.h"

#include "../csrc/kernels/kernels.h"

#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 72, COLUMNS = 512, MOST = ROWS * COLUMNS + 32, STEPS = 3 };

static int failures;

static void check(int holds, const char *what, const char *rule, const fastopt_formats *formats, int rounding, int line)
{
    if (holds)
        return;
    failures++;
    printf("line %d: %s of %s, p %s, g %s, state", line, what, rule, fastopt_format_at(formats->p)->name,
           fastopt_format_at(formats->g)->name);
    for (int s = 0; s < FASTOPT_MAX_STATE; s++)
        printf(" %s", fastopt_format_at(formats->state[s])->name);
    printf(", %s, %s\n", rounding ? "stochastic" : "nearest", fastopt_isa());
}
#define CHECK(condition, t) check(condition, #condition, (t)->rule->name, &(t)->formats, (t)->rounding, __LINE__)

/* Numbers of many sizes, the same in every run. */
static double some(uint64_t place)
{
    const uint64_t bits = fastopt_mix(place + 1);
    return ((double)(bits >> 40) / 0x1p23 - 1) * ldexp(1, -(int)(bits % 12));
}

/* Everything of one parameter in memory, as it is stored. */
typedef struct {
    ptrdiff_t n;
    _Alignas(64) char p[MOST * 8], g[MOST * 8], state[FASTOPT_MAX_STATE][MOST * 8];
    _Alignas(64) char p_rest[MOST * 4], state_rest[FASTOPT_MAX_STATE][MOST * 4];
    double carry[FASTOPT_MAX_CARRY];
    int64_t last_step[MOST];
} memory;

/* Calls do(array, bytes) for each array, as far as it is used and a little farther. */
#define EACH_ARRAY(m, DO)                                                                                              \
    do {                                                                                                               \
        const size_t elements = (size_t)(m)->n + 32;                                                                   \
        DO(p, 8 * elements);                                                                                           \
        DO(g, 8 * elements);                                                                                           \
        DO(p_rest, 4 * elements);                                                                                      \
        DO(carry, sizeof(m)->carry);                                                                                   \
        DO(last_step, 8 * elements);                                                                                   \
        for (int s = 0; s < FASTOPT_MAX_STATE; s++) {                                                                  \
            DO(state[s], 8 * elements);                                                                                \
            DO(state_rest[s], 4 * elements);                                                                           \
        }                                                                                                              \
    } while (0)

static void clear(memory *m, ptrdiff_t n)
{
    m->n = n;
#define CLEAR(array, bytes) memset(m->array, 0, bytes)
    EACH_ARRAY(m, CLEAR);
#undef CLEAR
}

static void copy(memory *to, const memory *from)
{
    to->n = from->n;
#define COPY(array, bytes) memcpy(to->array, from->array, bytes)
    EACH_ARRAY(to, COPY);
#undef COPY
}

static int same(const memory *a, const memory *b)
{
    int differ = 0;
#define COMPARE(array, bytes) differ |= memcmp(a->array, b->array, bytes)
    EACH_ARRAY(a, COMPARE);
#undef COMPARE
    return !differ;
}

static void hyper_near(const fastopt_rule *rule, double *hyper, double value)
{
    for (int h = 0; rule->hyper[h]; h++) {
        const fastopt_hyper *range = fastopt_find_hyper(rule->hyper[h]);
        hyper[h] = fastopt_in_range(range, value)  ? value
                   : fastopt_in_range(range, 0.5)  ? 0.5
                   : fastopt_in_range(range, -0.5) ? -0.5
                                                   : 1.5;
    }
    hyper[0] = 0.01;
}

/* Whether the elements of a tensor must be those of its shape. */
static int reads_shape(const fastopt_rule *rule)
{
    return rule->gathers == FASTOPT_MATRICES || rule->gathers == FASTOPT_BY_ROW;
}

static void hyper_of(const fastopt_rule *rule, double *hyper)
{
    hyper_near(rule, hyper, 0.25);
}

/* A format for each state buffer that can have it. */
static int format_of_state(const fastopt_rule *rule, int s, int format)
{
    if (rule->extent[s] != FASTOPT_WHOLE || rule->kind[s] == FASTOPT_EXACT)
        return FASTOPT_NATIVE;
    if (format < FASTOPT_CODES_SIGNED)
        return format;
    if (rule->gathers == FASTOPT_MATRICES)
        return FASTOPT_AS_BFLOAT16;
    return rule->kind[s] == FASTOPT_SIGNED ? FASTOPT_CODES_SIGNED : FASTOPT_CODES_NONNEGATIVE;
}

#define T        float
#define DTYPE    FASTOPT_FLOAT32
#define FN(name) name##_f32
#define ABS      fabsf
#include "storage.c"
#undef T
#undef DTYPE
#undef FN
#undef ABS

#define T        double
#define DTYPE    FASTOPT_FLOAT64
#define FN(name) name##_f64
#define ABS      fabs
#include "storage.c"

/* Formats that a buffer cannot have are refused before anything is written. */
static void test_bad_formats(void)
{
    static memory m, before;
    double hyper[FASTOPT_MAX_HYPER];
    const fastopt_formats formats = {
        .p = FASTOPT_SPLIT8, .g = FASTOPT_AS_BFLOAT16, .state = {FASTOPT_CODES_SIGNED, FASTOPT_CODES_NONNEGATIVE}};
    const fastopt_rule *adam = fastopt_find_rule("adam");
    hyper_of(adam, hyper);
    const fastopt_tensor good = make_f32(&m, adam, hyper, &formats, 100);
    fastopt_tensor t = good;
    t.step = 1;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK, &t);
    copy(&before, &m);
#define REFUSED(...)                                                                                                   \
    do {                                                                                                               \
        t = good;                                                                                                      \
        t.step = 2;                                                                                                    \
        __VA_ARGS__;                                                                                                   \
        const fastopt_status status = fastopt_step(&t, 1, 1);                                                          \
        if (status != FASTOPT_BAD_TENSOR || !same(&m, &before))                                                        \
            failures++, printf("line %d: %s is not refused\n", __LINE__, #__VA_ARGS__);                                \
    } while (0)
    REFUSED(t.formats.p = FASTOPT_CODES_NONNEGATIVE + 1);
    REFUSED(t.formats.p = 255);
    REFUSED(t.formats.g = 255);
    REFUSED(t.formats.state[0] = 255);
    REFUSED(t.formats.p = FASTOPT_CODES_SIGNED);
    REFUSED(t.formats.p = FASTOPT_AS_FLOAT64);
    REFUSED(t.formats.p = FASTOPT_AS_FLOAT32);
    REFUSED(t.formats.g = FASTOPT_SPLIT16);
    REFUSED(t.formats.g = FASTOPT_CODES_SIGNED);
    REFUSED(t.formats.state[0] = FASTOPT_SPLIT16);
    REFUSED(t.formats.state[0] = FASTOPT_AS_FLOAT64);
    REFUSED(t.formats.state[0] = FASTOPT_CODES_NONNEGATIVE);
    REFUSED(t.formats.state[1] = FASTOPT_CODES_SIGNED);
    REFUSED(t.formats.unused[0] = 1);
    REFUSED(t.formats.state[2] = FASTOPT_AS_BFLOAT16);
    REFUSED(t.p_rest = NULL);
    REFUSED(t.state_rest[1] = NULL);
    REFUSED(t.rounding = (fastopt_rounding)2);
    REFUSED(t.offset = 32);
    REFUSED(t.offset = -64);
    REFUSED(t.dtype = FASTOPT_FLOAT64);
    REFUSED(t.rule = fastopt_find_rule("rprop"), t.hyper = (const double[]){1, 0.5, 2, 0, 1},
            t.formats.state[1] = FASTOPT_AS_BFLOAT16);
    const ptrdiff_t shape[] = {10, 10};
    REFUSED(t.rule = fastopt_find_rule("sm3"), t.hyper = (const double[]){1, 0.5, 1, 0}, t.ndim = 2, t.shape = shape,
            t.formats.state[1] = FASTOPT_NATIVE);
    REFUSED(t.rule = fastopt_find_rule("sm3"), t.hyper = (const double[]){1, 0.5, 1, 0}, t.ndim = 2, t.shape = shape,
            t.formats.state[0] = FASTOPT_NATIVE, t.formats.state[1] = FASTOPT_AS_BFLOAT16);
    const int64_t rows[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    const void *gradients[10] = {m.g, m.g, m.g, m.g, m.g, m.g, m.g, m.g, m.g, m.g};
    REFUSED(t.formats.g = FASTOPT_NATIVE, t.rows = rows, t.row_gradients = gradients, t.row_length = 10);
    REFUSED(t.rows = rows, t.row_gradients = gradients, t.row_length = 10, t.row_count = 10);
#undef REFUSED
    /* Gradients that are not finite are found in every format. */
    for (int g = 0; fastopt_format_at(g); g++) {
        static float values[100];
        if (!fastopt_format_at(g)->of_g)
            continue;
        t = good;
        t.formats.g = (uint8_t)g;
        for (int i = 0; i < 100; i++)
            values[i] = 1;
        store_whole_f32(values, m.g, NULL, g, 100, NULL, 0);
        CHECK(fastopt_finite(&t), &t);
        values[70] = NAN;
        store_whole_f32(values, m.g, NULL, g, 100, NULL, 0);
        CHECK(!fastopt_finite(&t), &t);
    }
}

/* The bytes of a step move, also those of codes and scales, and no others. */
static void test_traffic(void)
{
    static memory m, before;
    double hyper[FASTOPT_MAX_HYPER];
    const fastopt_formats formats = {.p = FASTOPT_MASTER_FLOAT16,
                                     .g = FASTOPT_AS_BFLOAT16,
                                     .state = {FASTOPT_CODES_SIGNED, FASTOPT_CODES_NONNEGATIVE}};
    const fastopt_rule *adam = fastopt_find_rule("adam");
    hyper_of(adam, hyper);
    fastopt_tensor t = make_f32(&m, adam, hyper, &formats, 1000);
    clear(&m, 1000);
    copy(&before, &m);
    CHECK(fastopt_traffic(&t, 2) == FASTOPT_OK, &t);
    memset(m.p, 0, 2000);
    memset(m.p_rest, 0, 4000);
    for (int s = 0; s < 2; s++) {
        memset(m.state[s], 0, 1000);
        memset(m.state_rest[s], 0, 64);
    }
    CHECK(same(&m, &before), &t);
}

int main(void)
{
    const char *before = fastopt_isa();
    for (int i = 0; fastopt_isa_at(i); i++) {
        fastopt_use_isa(fastopt_isa_at(i));
        test_every_rule_f32();
        test_every_rule_f64();
        test_slices_f32();
        test_slices_f64();
        test_rows_f32();
        test_rows_f64();
        test_catch_up_f32();
        test_catch_up_f64();
        test_averages_f32();
        test_averages_f64();
    }
    fastopt_use_isa(before);
    test_kinds_f32();
    test_kinds_f64();
    test_bad_formats();
    test_traffic();
    return failures > 100 ? 100 : failures;
}
#else

#include "../csrc/storage/load_store.h"

/* A format of p, where it may have one. */
#define OF_P(format) (uint8_t)(DTYPE == FASTOPT_FLOAT32 ? (format) : FASTOPT_NATIVE)

/* The bytes of an element. */
static ptrdiff_t FN(bytes)(int format)
{
    return format ? fastopt_format_at(format)->bytes : (ptrdiff_t)sizeof(T);
}

static void FN(load_whole)(T *out, void *data, void *rest, int format, ptrdiff_t n)
{
    const fastopt_buffer from = {data, rest, (fastopt_format)format};
    if (format)
        FN(formats)[format].load(out, &from, 0, n);
    else
        memcpy(out, data, (size_t)n * sizeof(T));
}

static void FN(store_whole)(const T *x, void *data, void *rest, int format, ptrdiff_t n, const uint32_t *random,
                            int shift)
{
    const fastopt_buffer to = {data, rest, (fastopt_format)format};
    if (format)
        FN(formats)[format].store(x, &to, 0, n, random, shift);
    else
        memcpy(data, x, (size_t)n * sizeof(T));
}

/* The buffers of a tensor in T, loaded from memory and stored there. */
typedef struct {
    T p[MOST], g[MOST], state[FASTOPT_MAX_STATE][MOST];
} FN(loaded);

static void FN(load_buffers)(FN(loaded) *x, const fastopt_tensor *t)
{
    (void)FN(load_format), (void)FN(store_format), (void)FN(load_all), (void)FN(store_all);
    const uint64_t mode = flush_begin();
    FN(load_whole)(x->p, t->p, t->p_rest, t->formats.p, t->n);
    FN(load_whole)(x->g, (void *)t->g, NULL, t->formats.g, t->n);
    for (int s = 0; t->rule->state[s]; s++)
        FN(load_whole)(x->state[s], t->state[s], t->state_rest[s], t->formats.state[s], t->n);
    flush_end(mode);
}

static void FN(store_buffers)(const FN(loaded) *x, const fastopt_tensor *t, int of_p, int of_state, uint64_t key)
{
    static uint32_t random[MOST];
    int rounded = 0;
    const uint64_t mode = flush_begin();
    for (int s = -1; s < 0 || t->rule->state[s]; s++) {
        const int format = s < 0 ? t->formats.p : t->formats.state[s];
        const int rounds = t->rounding && fastopt_format_at(format)->rounds;
        if (rounds)
            FN(fill_random)(random, key, rounded / 2, t->offset, t->n);
        if (s < 0 && of_p)
            FN(store_whole)(x->p, t->p, t->p_rest, format, t->n, rounds ? random : NULL, rounded % 2 * 16);
        if (s >= 0 && of_state)
            FN(store_whole)(x->state[s], t->state[s], t->state_rest[s], format, t->n, rounds ? random : NULL,
                            rounded % 2 * 16);
        rounded += rounds;
    }
    flush_end(mode);
}

/* The native tensor of loaded buffers. */
static fastopt_tensor FN(native)(FN(loaded) *x, const fastopt_tensor *t)
{
    fastopt_tensor native = *t;
    memset(&native.formats, 0, sizeof native.formats);
    native.p = x->p;
    native.g = x->g;
    for (int s = 0; t->rule->state[s]; s++)
        native.state[s] = x->state[s];
    return native;
}

/* A step by the definition: the passes of a rule that gathers are apart. */
static void FN(define_step)(fastopt_tensor *t, const fastopt_call *options)
{
    static FN(loaded) x;
    const uint64_t key = fastopt_random_key(t->seed, t->key, (uint64_t)t->step);
    fastopt_call call = *options;
    call.num_threads = 1;
    call.zero_grads = 0;
    FN(load_buffers)(&x, t);
    fastopt_tensor native = FN(native)(&x, t);
    if (t->rule->gather_writes) {
        call.part = FASTOPT_GATHER;
        fastopt_step_with(&native, 1, &call);
        FN(store_buffers)(&x, t, 0, 1, key);
        FN(load_buffers)(&x, t);
        call.part = FASTOPT_UPDATE;
    }
    fastopt_step_with(&native, 1, &call);
    FN(store_buffers)(&x, t, 1, !t->rule->gather_writes, key);
}

static fastopt_tensor FN(make)(memory *m, const fastopt_rule *rule, const double *hyper, const fastopt_formats *formats,
                               ptrdiff_t n)
{
    static T p[MOST];
    fastopt_tensor t = {.rule = rule, .dtype = DTYPE, .n = n, .p = m->p, .g = m->g, .formats = *formats};
    clear(m, n);
    t.p_rest = m->p_rest;
    for (int s = 0; rule->state[s]; s++) {
        t.state[s] = m->state[s];
        t.state_rest[s] = m->state_rest[s];
    }
    t.carry = m->carry;
    t.hyper = hyper;
    t.seed = 5;
    t.key = 11;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] = (T)some((uint64_t)i);
    FN(store_whole)(p, m->p, m->p_rest, formats->p, n, NULL, 0);
    return t;
}

static void FN(fill_gradient)(memory *m, const fastopt_tensor *t, int64_t step)
{
    static T g[MOST];
    for (ptrdiff_t i = 0; i < t->n; i++)
        g[i] = (T)some((uint64_t)(i + step * MOST));
    FN(store_whole)(g, m->g, NULL, t->formats.g, t->n, NULL, 0);
}

/* Some steps of one tensor, contiguous or strided. */
static void FN(compare)(const fastopt_rule *rule, const fastopt_formats *formats, int rounding, ptrdiff_t rows,
                        const fastopt_options *options, fastopt_call call, int is_strided)
{
    static memory made, defined;
    static _Alignas(64) char p[MOST * 16], g[MOST * 8];
    double hyper[FASTOPT_MAX_HYPER];
    const ptrdiff_t shape[] = {rows, COLUMNS}, n = rows * COLUMNS - (reads_shape(rule) ? 0 : 27);
    const ptrdiff_t p_bytes = FN(bytes)(formats->p), g_bytes = FN(bytes)(formats->g);
    const fastopt_layout layout = {.ndim = 1, .shape = {n}, .p_stride = {2 * p_bytes}, .g_stride = {-g_bytes}};
    hyper_of(rule, hyper);
    fastopt_tensor t = FN(make)(&made, rule, hyper, formats, n),
                   by_definition = FN(make)(&defined, rule, hyper, formats, n);
    t.rounding = by_definition.rounding = (fastopt_rounding)rounding;
    t.ndim = by_definition.ndim = 2;
    t.shape = by_definition.shape = shape;
    t.options = by_definition.options = options;
    t.offset = by_definition.offset = 128;
    for (int step = 1; step <= STEPS; step++) {
        t.step = by_definition.step = step;
        FN(fill_gradient)(&made, &t, step);
        FN(fill_gradient)(&defined, &by_definition, step);
        if (is_strided) {
            for (ptrdiff_t i = 0; i < n; i++) {
                memcpy(p + 2 * i * p_bytes, made.p + i * p_bytes, (size_t)p_bytes);
                memcpy(g + (n - 1 - i) * g_bytes, made.g + i * g_bytes, (size_t)g_bytes);
            }
            t.p = p;
            t.g = g + (n - 1) * g_bytes;
            t.layout = &layout;
        }
        FN(define_step)(&by_definition, &call);
        CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_OK, &t);
        if (is_strided)
            for (ptrdiff_t i = 0; i < n; i++) {
                memcpy(made.p + i * p_bytes, p + 2 * i * p_bytes, (size_t)p_bytes);
                memcpy(made.g + i * g_bytes, g + (n - 1 - i) * g_bytes, (size_t)g_bytes);
            }
        if (call.zero_grads)
            memset(defined.g, 0, 8 * (size_t)n);
        CHECK(same(&made, &defined), &t);
        if (!same(&made, &defined))
            return;
    }
}

/* Every rule with every format of p and state. */
static void FN(test_every_rule)(void)
{
    static const int state_formats[] = {FASTOPT_NATIVE, FASTOPT_AS_FLOAT16, FASTOPT_AS_BFLOAT16, FASTOPT_AS_FLOAT32,
                                        FASTOPT_CODES_SIGNED};
    static const int g_formats[] = {FASTOPT_NATIVE, FASTOPT_AS_BFLOAT16, FASTOPT_AS_FLOAT16, FASTOPT_AS_FLOAT64,
                                    FASTOPT_AS_FLOAT32};
    const fastopt_options decay = {.weight_decay = 0.01, .decoupled_decay = 0.1, .maximize = 1};
    const fastopt_rule *rule;
    for (int r = 0, number = 0; (rule = fastopt_rule_at(r)); r++)
        for (int p = 0; fastopt_format_at(p); p++)
            for (int i = 0; i < 5; i++, number++) {
                if (!fastopt_format_at(p)->of_p || p != OF_P(p))
                    continue;
                fastopt_formats formats = {.p = (uint8_t)p, .g = (uint8_t)g_formats[number % 5]};
                for (int s = 0; rule->state[s]; s++)
                    formats.state[s] = (uint8_t)format_of_state(rule, s, state_formats[i]);
                if (number % 7 == 3 && rule->state[0])
                    formats.state[0] = FASTOPT_NATIVE;
                for (int rounding = 0; rounding < 2; rounding++) {
                    const fastopt_call plain = {.num_threads = 1};
                    const fastopt_call staged = {
                        .num_threads = 3, .clip_norm = 0.5, .grad_scale = 2, .clip_value = 0.4, .zero_grads = 1};
                    FN(compare)(rule, &formats, rounding, 3, NULL, plain, 0);
                    FN(compare)(rule, &formats, rounding, 3, &decay, staged, number % 2);
                    if (rounding && (number % 9 == 0 || (i == 4 && !p)))
                        FN(compare)(rule, &formats, rounding, ROWS, number % 2 ? &decay : NULL,
                                    (fastopt_call){.num_threads = 2 + number % 3}, 0);
                }
            }
}

/* State that is said to be never negative is not, with hyperparameters near either end and gradients that come and go.
 */
static void FN(test_kinds)(void)
{
    static memory m;
    static const double values[] = {0, 0.1, 0.5, 0.9, 0.999, 1 - 0x1p-24};
    static const ptrdiff_t shape[] = {5, COLUMNS};
    const fastopt_formats native = {0};
    const fastopt_rule *rule;
    for (int r = 0; (rule = fastopt_rule_at(r)); r++)
        for (int i = 0; i < 6; i++) {
            const ptrdiff_t n = shape[0] * shape[1];
            double hyper[FASTOPT_MAX_HYPER];
            hyper_near(rule, hyper, values[i]);
            fastopt_tensor t = FN(make)(&m, rule, hyper, &native, n);
            t.ndim = 2;
            t.shape = shape;
            for (t.step = 1; t.step <= 30; t.step++) {
                FN(fill_gradient)(&m, &t, t.step);
                for (ptrdiff_t j = 0; j < n; j++)
                    ((T *)m.g)[j] *= (T)(t.step % 3 ? ldexp(1, (int)(j % 40) - 20 - (int)t.step) : 0);
                CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK, &t);
                for (int s = 0; rule->state[s]; s++) {
                    const ptrdiff_t size = fastopt_state_size(rule, s, 2, shape);
                    int negative = 0;
                    for (ptrdiff_t j = 0; j < size; j++)
                        negative |= ((const T *)t.state[s])[j] < 0;
                    CHECK(!(negative && rule->kind[s] == FASTOPT_NONNEGATIVE), &t);
                }
            }
        }
}

/* A parameter in slices that begin at multiples of 64, as tensors of one call. */
static void FN(test_slices)(void)
{
    static memory whole, cut;
    static const ptrdiff_t begins[] = {0, 64, 192, 448, 20032, 30720, MOST - 32 - 5};
    const fastopt_rule *rule;
    for (int r = 0; (rule = fastopt_rule_at(r)); r++)
        for (int codes = 0; codes < 2; codes++) {
            double hyper[FASTOPT_MAX_HYPER];
            fastopt_formats formats = {.p = OF_P(FASTOPT_SPLIT8), .g = FASTOPT_AS_BFLOAT16};
            if (rule->gathers)
                continue;
            for (int s = 0; rule->state[s]; s++)
                formats.state[s] =
                    (uint8_t)format_of_state(rule, s, codes ? FASTOPT_CODES_SIGNED : FASTOPT_AS_BFLOAT16);
            hyper_of(rule, hyper);
            const ptrdiff_t n = begins[6];
            fastopt_tensor t = FN(make)(&whole, rule, hyper, &formats, n),
                           of = FN(make)(&cut, rule, hyper, &formats, n);
            fastopt_tensor slices[6];
            double carry[6][FASTOPT_MAX_CARRY] = {{0}};
            t.rounding = of.rounding = FASTOPT_STOCHASTIC;
            for (int step = 1; step <= STEPS; step++) {
                t.step = of.step = step;
                FN(fill_gradient)(&whole, &t, step);
                FN(fill_gradient)(&cut, &of, step);
                for (int i = 0; i < 6; i++) {
                    const ptrdiff_t begin = begins[i];
                    slices[i] = of;
                    slices[i].n = begins[i + 1] - begin;
                    slices[i].offset = begin;
                    slices[i].p = cut.p + FN(bytes)(formats.p) * begin;
                    slices[i].p_rest = cut.p_rest + begin;
                    slices[i].g = cut.g + 2 * begin;
                    slices[i].carry = carry[i];
                    for (int s = 0; rule->state[s]; s++) {
                        slices[i].state[s] = cut.state[s] + begin * FN(bytes)(formats.state[s]);
                        slices[i].state_rest[s] = cut.state_rest[s] + begin / GROUP * 4;
                    }
                }
                CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK && fastopt_step(slices, 6, 4) == FASTOPT_OK, &t);
                memcpy(cut.carry, carry[0], sizeof carry[0]);
                CHECK(same(&whole, &cut), &t);
            }
        }
}

/* Gradients of rows: by the definition, rows are stepped one after the other, and groups that they are in stored. */
static void FN(test_rows)(void)
{
    static memory made, defined;
    static FN(loaded) x;
    static const ptrdiff_t lengths[] = {64, 10, 1, 130};
    const fastopt_rule *rule;
    for (int r = 0; (rule = fastopt_rule_at(r)); r++)
        for (int k = 0; k < 4 && fastopt_rule_takes_rows(rule); k++)
            for (int format = FASTOPT_AS_BFLOAT16; format <= FASTOPT_CODES_SIGNED;
                 format += FASTOPT_CODES_SIGNED - FASTOPT_AS_BFLOAT16)
                for (int rounding = 0; rounding < 2; rounding++) {
                    const ptrdiff_t length = lengths[k], count = 7, all = 21;
                    double hyper[FASTOPT_MAX_HYPER], carry[FASTOPT_MAX_CARRY];
                    fastopt_formats formats = {.p = OF_P(rounding ? FASTOPT_AS_BFLOAT16 : FASTOPT_SPLIT16)};
                    int64_t rows[7];
                    const void *gradients[7];
                    for (int s = 0; rule->state[s]; s++)
                        formats.state[s] = (uint8_t)format_of_state(rule, s, format);
                    hyper_of(rule, hyper);
                    fastopt_tensor t = FN(make)(&made, rule, hyper, &formats, all * length);
                    fastopt_tensor of = FN(make)(&defined, rule, hyper, &formats, all * length);
                    t.rounding = of.rounding = (fastopt_rounding)rounding;
                    t.row_length = of.row_length = length;
                    t.row_count = all;
                    t.ndim = of.ndim = 2;
                    t.shape = of.shape = (const ptrdiff_t[]){all, length};
                    if (fastopt_rule_catch_up(rule)) {
                        t.last_step = made.last_step;
                        of.last_step = defined.last_step;
                    }
                    for (int step = 1; step <= STEPS; step++) {
                        t.step = of.step = step;
                        for (int i = 0; i < count; i++) {
                            rows[i] = (i * 5 + step * 3) % all;
                            gradients[i] = (T *)made.g + i * length;
                        }
                        t.n = count * length;
                        t.rows = rows;
                        t.row_gradients = gradients;
                        FN(fill_gradient)(&made, &t, step);
                        memcpy(carry, defined.carry, sizeof carry);
                        for (int i = 0; i < count; i++) {
                            const uint64_t key = fastopt_random_key(of.seed, of.key, (uint64_t)step);
                            const ptrdiff_t begin = rows[i] * length, end = begin + length;
                            FN(load_buffers)(&x, &of);
                            fastopt_tensor native = FN(native)(&x, &of);
                            native.n = length;
                            native.rows = &rows[i];
                            native.row_gradients = &gradients[i];
                            memcpy(defined.carry, carry, sizeof carry);
                            CHECK(fastopt_step(&native, 1, 1) == FASTOPT_OK, &t);
                            static memory stored;
                            copy(&stored, &defined);
                            fastopt_tensor to = of;
                            to.p = stored.p;
                            to.p_rest = stored.p_rest;
                            for (int s = 0; rule->state[s]; s++) {
                                to.state[s] = stored.state[s];
                                to.state_rest[s] = stored.state_rest[s];
                            }
                            FN(store_buffers)(&x, &to, 1, 1, key);
                            const ptrdiff_t p_bytes = FN(bytes)(formats.p);
                            memcpy(defined.p + p_bytes * begin, stored.p + p_bytes * begin, (size_t)(p_bytes * length));
                            memcpy(defined.p_rest + 2 * begin, stored.p_rest + 2 * begin, 2 * (size_t)length);
                            for (int s = 0; rule->state[s]; s++) {
                                const fastopt_format_info *info = fastopt_format_at(formats.state[s]);
                                const ptrdiff_t bytes = FN(bytes)(formats.state[s]);
                                const int whole = rule->extent[s] == FASTOPT_WHOLE;
                                const ptrdiff_t first = whole ? begin / info->group : rows[i];
                                const ptrdiff_t past = whole ? (end - 1) / info->group + 1 : first + 1;
                                memcpy(defined.state[s] + first * info->group * bytes,
                                       stored.state[s] + first * info->group * bytes,
                                       (size_t)((past - first) * info->group * bytes));
                                memcpy(defined.state_rest[s] + first * info->rest_bytes,
                                       stored.state_rest[s] + first * info->rest_bytes,
                                       (size_t)((past - first) * info->rest_bytes));
                            }
                        }
                        CHECK(fastopt_step(&t, 1, 1 + step) == FASTOPT_OK, &t);
                        memcpy(defined.g, made.g, 8 * (size_t)made.n);
                        CHECK(same(&made, &defined), &t);
                    }
                }
}

/* Rows that make up for missed steps, in a whole gradient and between steps. */
static void FN(test_catch_up)(void)
{
    static memory made, defined;
    static FN(loaded) x;
    const fastopt_rule *rule;
    for (int r = 0; (rule = fastopt_rule_at(r)); r++)
        for (int i = 0; i < 8 && fastopt_rule_catch_up(rule); i++) {
            const ptrdiff_t length = i & 1 ? 10 : 96, rows = 50, n = rows * length;
            double hyper[FASTOPT_MAX_HYPER];
            fastopt_formats formats = {.p = OF_P(i & 2 ? FASTOPT_SPLIT8 : FASTOPT_MASTER_BFLOAT16)};
            for (int s = 0; rule->state[s]; s++)
                formats.state[s] = (uint8_t)format_of_state(rule, s, i & 2 ? FASTOPT_CODES_SIGNED : FASTOPT_AS_FLOAT16);
            hyper_of(rule, hyper);
            fastopt_tensor t = FN(make)(&made, rule, hyper, &formats, n),
                           of = FN(make)(&defined, rule, hyper, &formats, n);
            t.rounding = of.rounding = i & 4 ? FASTOPT_STOCHASTIC : FASTOPT_NEAREST;
            t.row_length = of.row_length = length;
            t.ndim = of.ndim = 2;
            t.shape = of.shape = (const ptrdiff_t[]){rows, length};
            t.last_step = made.last_step;
            of.last_step = defined.last_step;
            t.step = of.step = 1;
            FN(fill_gradient)(&made, &t, 1);
            FN(fill_gradient)(&defined, &of, 1);
            const fastopt_call call = {.num_threads = 1};
            FN(define_step)(&of, &call);
            CHECK(fastopt_step(&t, 1, 2) == FASTOPT_OK && same(&made, &defined), &t);
            for (ptrdiff_t row = 0; row < rows; row += 3) /* these count as missed */
                made.last_step[row] = defined.last_step[row] = 0;
            t.step = of.step = 2;
            FN(define_step)(&of, &call);
            CHECK(fastopt_step(&t, 1, 2) == FASTOPT_OK && same(&made, &defined), &t);
            t.step = of.step = 5;
            FN(load_buffers)(&x, &of);
            fastopt_tensor native = FN(native)(&x, &of);
            CHECK(fastopt_catch_up(&native, 1, 1) == FASTOPT_OK && fastopt_catch_up(&t, 1, 2) == FASTOPT_OK, &t);
            FN(store_buffers)(&x, &of, 1, 1, ~fastopt_random_key(of.seed, of.key, 5));
            CHECK(same(&made, &defined), &t);
        }
}

/* Averages of parameters in every format: in steps and at rest. */
static void FN(test_averages)(void)
{
    static memory made, defined;
    static FN(loaded) x;
    static T ema[2][MOST], swa[2][MOST], slow[2][MOST];
    const double lr[] = {0.1};
    const fastopt_options options = {
        .ema_decay = 0.5, .swa_start = 1, .swa_every = 1, .lookahead_every = 2, .lookahead_rate = 0.5};
    for (int p = 0; fastopt_format_at(p); p++) {
        if (!fastopt_format_at(p)->of_p || p != OF_P(p))
            continue;
        const fastopt_formats formats = {.p = (uint8_t)p, .g = FASTOPT_AS_FLOAT16};
        const fastopt_rule *rule = fastopt_find_rule("sgd");
        const ptrdiff_t n = 3001;
        fastopt_tensor t = FN(make)(&made, rule, lr, &formats, n), of = FN(make)(&defined, rule, lr, &formats, n);
        for (int i = 0; i < 2; i++) {
            fastopt_tensor *one = i ? &of : &t;
            one->rounding = FASTOPT_STOCHASTIC;
            one->options = &options;
            one->ema = ema[i];
            one->swa = swa[i];
            one->slow = slow[i];
        }
        for (int step = 1; step <= 4; step++) {
            t.step = t.round = of.step = of.round = step;
            FN(fill_gradient)(&made, &t, step);
            FN(fill_gradient)(&defined, &of, step);
            FN(load_buffers)(&x, &of);
            fastopt_tensor native = FN(native)(&x, &of);
            CHECK(fastopt_step(&native, 1, 1) == FASTOPT_OK && fastopt_step(&t, 1, 1) == FASTOPT_OK, &t);
            of.averaged = native.averaged;
            of.begun = native.begun;
            FN(store_buffers)(&x, &of, 1, 1, fastopt_random_key(of.seed, of.key, (uint64_t)step));
            CHECK(same(&made, &defined), &t);
            CHECK(!memcmp(ema[0], ema[1], (size_t)n * sizeof(T)) && !memcmp(swa[0], swa[1], (size_t)n * sizeof(T)), &t);
            CHECK(!memcmp(slow[0], slow[1], (size_t)n * sizeof(T)), &t);
        }
        t.round = of.round = 9;
        FN(load_buffers)(&x, &of);
        fastopt_tensor native = FN(native)(&x, &of);
        t.g = native.g = NULL;
        CHECK(fastopt_average(&native, 1, 1) == FASTOPT_OK && fastopt_average(&t, 1, 1) == FASTOPT_OK, &t);
        CHECK(!memcmp(ema[0], ema[1], (size_t)n * sizeof(T)) && !memcmp(swa[0], swa[1], (size_t)n * sizeof(T)), &t);
        CHECK(same(&made, &defined), &t);
    }
}

#undef OF_P
#endif
