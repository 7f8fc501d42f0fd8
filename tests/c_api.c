/* A program that uses the C API alone.  Prints every check that fails, and exits with their number. */
#include "fastopt_testing.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
#define CHECK(condition) ((condition) ? (void)0 : (void)(failures++, printf("line %d: %s\n", __LINE__, #condition)))

enum { N = 100003 };
static float p[N], g[N], m[N], v[N], first_p[N], first_m[N], first_v[N];
static const double adam[] = {1e-3, 0.9, 0.999, 1e-8};

static fastopt_tensor make(const char *rule, fastopt_dtype dtype, ptrdiff_t n, void *param, const void *grad,
                           const double *hyper)
{
    return (fastopt_tensor){
        .rule = fastopt_find_rule(rule), .dtype = dtype, .n = n, .p = param, .g = grad, .step = 1, .hyper = hyper};
}

static void adam_steps(int num_threads)
{
    fastopt_tensor t = make("adam", FASTOPT_FLOAT32, N, p, g, adam);
    t.state[0] = m;
    t.state[1] = v;
    memset(m, 0, sizeof m);
    memset(v, 0, sizeof v);
    for (int i = 0; i < N; i++)
        p[i] = (float)i / N;
    for (t.step = 1; t.step <= 3; t.step++) {
        for (int i = 0; i < N; i++)
            g[i] = (float)((i * 7 + t.step) % 11 - 5);
        CHECK(fastopt_step(&t, 1, num_threads) == FASTOPT_OK);
    }
}

/* Against the paper's formula in doubles. */
static void test_adam(void)
{
    adam_steps(1);
    double worst = 0;
    for (int i = 0; i < N; i++) {
        double x = (float)i / N, mean = 0, square = 0;
        for (int t = 1; t <= 3; t++) {
            const double grad = (i * 7 + t) % 11 - 5;
            mean = 0.9 * mean + 0.1 * grad;
            square = 0.999 * square + 0.001 * grad * grad;
            x -= 1e-3 * mean / (1 - pow(0.9, t)) / (sqrt(square / (1 - pow(0.999, t))) + 1e-8);
        }
        worst = fmax(worst, fabs(x - p[i]));
    }
    CHECK(worst < 1e-6);
}

/* The same bits on every instruction set and any number of threads. */
static void test_same_bits(void)
{
    const char *before = fastopt_isa();
    adam_steps(1);
    memcpy(first_p, p, sizeof p);
    memcpy(first_m, m, sizeof m);
    memcpy(first_v, v, sizeof v);
    for (int i = 0; fastopt_isa_at(i); i++)
        for (int threads = 1; threads <= 3; threads++) {
            CHECK(fastopt_use_isa(fastopt_isa_at(i)));
            CHECK(!strcmp(fastopt_isa(), fastopt_isa_at(i)));
            adam_steps(threads);
            CHECK(!memcmp(first_p, p, sizeof p) && !memcmp(first_m, m, sizeof m) && !memcmp(first_v, v, sizeof v));
        }
    CHECK(!fastopt_use_isa("abacus"));
    CHECK(fastopt_use_isa(before));
}

/* Many tensors in one call: several rules, both dtypes, options, and one without a gradient. */
static void test_many(void)
{
    const double momentum[] = {0.5, 0.5, 0}, sgd[] = {0.25};
    const fastopt_options uphill = {.maximize = 1}, decay = {.weight_decay = 2}, decoupled = {.decoupled_decay = 2};
    float a[2] = {1, 2}, a_grad[2] = {1, -1}, b[2] = {0};
    double c[3] = {1, 2, 4}, c_grad[3] = {4, 4, 4}, d[1] = {7}, e[1] = {8}, f[1] = {8}, zero[1] = {0};
    fastopt_tensor tensors[] = {
        make("momentum", FASTOPT_FLOAT32, 2, a, a_grad, momentum),
        make("sgd", FASTOPT_FLOAT64, 1, d, NULL, sgd),
        make("sgd", FASTOPT_FLOAT64, 3, c, c_grad, sgd),
        make("sgd", FASTOPT_FLOAT64, 1, e, zero, sgd),
        make("sgd", FASTOPT_FLOAT64, 1, f, zero, sgd),
    };
    tensors[0].state[0] = b;
    tensors[2].options = &uphill;
    tensors[3].options = &decay;
    tensors[4].options = &decoupled;
    CHECK(fastopt_step(tensors, 5, 2) == FASTOPT_OK);
    CHECK(a[0] == 0.5 && a[1] == 2.5 && b[0] == 1 && b[1] == -1);
    CHECK(c[0] == 2 && c[1] == 3 && c[2] == 5);
    CHECK(d[0] == 7);
    CHECK(e[0] == 8 - 0.25 * 16 && f[0] == 8 * 0.5);
    tensors[0].step = 2;
    CHECK(fastopt_step(tensors, 1, 1) == FASTOPT_OK);
    CHECK(a[0] == -0.25 && a[1] == 3.25 && b[0] == 1.5 && b[1] == -1.5);
    CHECK(fastopt_step(NULL, 0, 1) == FASTOPT_OK);
}

/* A 3 x 2 window into a 3 x 4 array, with a gradient that is stored transposed and backwards. */
static void test_strided(void)
{
    const double lr[] = {1};
    double window[3][4] = {{1, 2, 9, 9}, {3, 4, 9, 9}, {5, 6, 9, 9}};
    const double grad[2][3] = {{60, 50, 40}, {30, 20, 10}};
    const fastopt_layout layout = {.ndim = 2,
                                   .shape = {3, 2},
                                   .p_stride = {4 * sizeof(double), sizeof(double)},
                                   .g_stride = {-(ptrdiff_t)sizeof(double), -3 * (ptrdiff_t)sizeof(double)}};
    fastopt_tensor t = make("sgd", FASTOPT_FLOAT64, 6, window, &grad[1][2], lr);
    t.layout = &layout;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK);
    const double expected[3][4] = {{1 - 10, 2 - 40, 9, 9}, {3 - 20, 4 - 50, 9, 9}, {5 - 30, 6 - 60, 9, 9}};
    CHECK(!memcmp(window, expected, sizeof expected));
}

/* A carried double starts by itself on step 1 and is the caller's to keep. */
static void test_carry(void)
{
    const double hyper[] = {0.1, 0.5, 0.75, 2, INFINITY}; /* constant momentum: mu_t = 0.5 */
    double x[1] = {1}, grad[1] = {2}, mean[1] = {0}, square[1] = {0}, carry[1] = {NAN};
    fastopt_tensor t = make("nadam", FASTOPT_FLOAT64, 1, x, grad, hyper);
    t.state[0] = mean;
    t.state[1] = square;
    t.carry = carry;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK);
    CHECK(carry[0] == 0.5 && fabs(x[0] - (1 - 0.1 * 8 / 3 / 4)) < 1e-15);
    t.carry = NULL;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_BAD_TENSOR);
}

/* Where betas change, corrections use their products, of each tensor's own steps; where they do not, nothing changes.
 */
static void test_decays(void)
{
    double hyper[] = {0.25, 0.9, 0.5, 0}, x[2] = {0}, y[2] = {0}, grad[2] = {3, -1}, state[2][2][2] = {0};
    fastopt_decay decays[2][FASTOPT_MAX_HYPER];
    fastopt_tensor t[2];
    for (int i = 0; i < 2; i++) {
        t[i] = make("adam", FASTOPT_FLOAT64, 2, i ? y : x, grad, hyper);
        t[i].state[0] = state[i][0];
        t[i].state[1] = state[i][1];
    }
    t[0].decays = decays[0];
    for (int step = 1; step <= 8; step++, t[0].step++, t[1].step++)
        CHECK(fastopt_step(t, 2, 1) == FASTOPT_OK);
    CHECK(!memcmp(x, y, sizeof x) && !memcmp(state[0], state[1], sizeof state[0]));
    CHECK(decays[0][1].value == 0.9 && decays[0][1].since == 0 && decays[0][1].product == 1);

    t[1].decays = decays[1];
    t[1].step = 1; /* later than the first */
    y[0] = y[1] = 0;
    memset(state[1], 0, sizeof state[1]);
    for (int step = 0; step < 20; step++, t[0].step++, t[1].step++) {
        const double before = x[0];
        hyper[1] = 0.1 * (step % 7);
        hyper[2] = 0.9 - 0.04 * step;
        CHECK(fastopt_step(t, 2, 1) == FASTOPT_OK);
        CHECK(fabs(before - x[0] - 0.25) < 1e-14 && fabs(y[0] + 0.25 * (step + 1)) < 1e-13);
    }

    const fastopt_decay good = decays[0][1];
#define REFUSED_DECAY(field, bad)                                                                                      \
    do {                                                                                                               \
        const double before = x[0];                                                                                    \
        decays[0][1].field = (bad);                                                                                    \
        CHECK(fastopt_step(t, 2, 1) == FASTOPT_BAD_TENSOR && x[0] == before);                                          \
        decays[0][1] = good;                                                                                           \
    } while (0)
    REFUSED_DECAY(value, 1);
    REFUSED_DECAY(value, NAN);
    REFUSED_DECAY(since, t[0].step);
    REFUSED_DECAY(since, -1);
    REFUSED_DECAY(product, 1.5);
    REFUSED_DECAY(product, NAN);
    REFUSED_DECAY(age, -1);
    REFUSED_DECAY(age, INFINITY);
    CHECK(fastopt_step(t, 2, 1) == FASTOPT_OK);
    CHECK(!strcmp(fastopt_rule_corrected(t[0].rule)[1], "beta2") && !fastopt_rule_corrected(t[0].rule)[2]);
    CHECK(!fastopt_rule_corrected(fastopt_find_rule("lion"))[0]);
}

/* ---- A step in two calls ---- */

enum { ROWS = 5, COLUMNS = 60, SOME = ROWS * COLUMNS, MIXED = 8 };

/* Tensors of rules with carried numbers, sums, matrices and none of these, and their memory. */
typedef struct {
    double p[MIXED][SOME], g[MIXED][SOME], state[MIXED][FASTOPT_MAX_STATE][SOME], carry[MIXED][FASTOPT_MAX_CARRY];
    fastopt_tensor tensors[MIXED];
} mixed;

static const char *const mixed_rules[MIXED] = {"nadam", "schedulefreeadamw", "prodigy",   "asgd",
                                               "muon",  "novograd",          "adafactor", "adam"};

static void make_mixed(mixed *all)
{
    static const ptrdiff_t shape[] = {ROWS, COLUMNS};
    static double hyper[MIXED][FASTOPT_MAX_HYPER];
    memset(all, 0, sizeof *all);
    for (int i = 0; i < MIXED; i++) {
        fastopt_tensor *t = &all->tensors[i];
        *t = make(mixed_rules[i], FASTOPT_FLOAT64, SOME, all->p[i], all->g[i], hyper[i]);
        for (int h = 0; t->rule->hyper[h]; h++) {
            const fastopt_hyper *range = fastopt_find_hyper(t->rule->hyper[h]);
            hyper[i][h] = fastopt_in_range(range, 0.5) ? 0.5 : fastopt_in_range(range, -0.5) ? -0.5 : 1.5;
        }
        for (int s = 0; t->rule->state[s]; s++)
            t->state[s] = all->state[i][s];
        t->carry = all->carry[i];
        t->ndim = 2;
        t->shape = shape;
        for (int j = 0; j < SOME; j++)
            all->p[i][j] = sin(i + j);
    }
}

static void fill_gradients(mixed *all, int64_t step, int group)
{
    for (int i = 0; i < MIXED; i++) {
        all->tensors[i].step = step;
        all->tensors[i].clip_group = group ? i / group : 0;
        for (int j = 0; j < SOME; j++)
            all->g[i][j] = (i + 1) * cos((double)(i + 2 * j + 3 * step));
    }
}

/* A shape is that of the elements: none is negative, and their product does not overflow. */
static void test_bad_shapes(void)
{
    static mixed all;
    static const ptrdiff_t half = (ptrdiff_t)1 << (4 * sizeof(ptrdiff_t));
    static const ptrdiff_t bad[][4] = {{-ROWS, -COLUMNS, 1, 1}, {half, half, ROWS, COLUMNS}, {ROWS, COLUMNS, 2, 1}};
    make_mixed(&all);
    fill_gradients(&all, 1, 0);
    fastopt_tensor *t = &all.tensors[6]; /* adafactor */
    t->ndim = 4;
    for (int i = 0; i < 3; i++) {
        t->shape = bad[i];
        CHECK(fastopt_step(all.tensors, MIXED, 1) == FASTOPT_BAD_TENSOR && all.p[0][0] == sin(0));
    }
}

/* GATHER and UPDATE make the step that one call makes: scalars, norms and sums are computed once. */
static void test_two_calls(void)
{
    static mixed whole, parts;
    for (int group = 0; group < 4; group++) {
        make_mixed(&whole);
        make_mixed(&parts);
        for (int64_t step = 1; step <= 3; step++) {
            fastopt_call call = {.num_threads = 2, .grad_scale = 2, .check_finite = 1, .zero_grads = step == 2};
            call.clip_norm = group == 3 ? 0 : 0.5;
            call.clip_value = step == 3 ? 0.01 : 0;
            fill_gradients(&whole, step, group);
            fill_gradients(&parts, step, group);
            CHECK(fastopt_step_with(whole.tensors, MIXED, &call) == FASTOPT_OK);
            const double norm = call.grad_norm;
            call.part = FASTOPT_GATHER;
            call.grad_norm = -1;
            CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_OK);
            CHECK(!call.clip_norm || call.grad_norm == norm);
            call.part = FASTOPT_UPDATE;
            CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_OK);
            CHECK(!call.clip_norm || call.grad_norm == norm);
            CHECK(!memcmp(whole.p, parts.p, sizeof whole.p) && !memcmp(whole.g, parts.g, sizeof whole.g));
            CHECK(!memcmp(whole.state, parts.state, sizeof whole.state));
            CHECK(!memcmp(whole.carry, parts.carry, sizeof whole.carry));
        }
    }
    /* An update needs what the first call finds out about this step, and uses it up. */
    fastopt_call call = {.num_threads = 1, .part = FASTOPT_UPDATE};
    CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_BAD_TENSOR);
    fill_gradients(&parts, 4, 0);
    call.part = FASTOPT_GATHER;
    CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_OK);
    call.part = FASTOPT_UPDATE;
    parts.tensors[MIXED - 1].step = 5;
    CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_BAD_TENSOR);
    parts.tensors[MIXED - 1].step = 4;
    CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_OK);
    CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_BAD_TENSOR);
    /* What is not finite is found by the first. */
    fill_gradients(&parts, 5, 0);
    parts.g[3][7] = NAN;
    call.part = FASTOPT_GATHER;
    call.check_finite = 1;
    memcpy(whole.carry, parts.carry, sizeof whole.carry);
    CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_NONFINITE);
    CHECK(!memcmp(whole.carry, parts.carry, sizeof whole.carry));
    call.part = FASTOPT_UPDATE;
    CHECK(fastopt_step_with(parts.tensors, MIXED, &call) == FASTOPT_BAD_TENSOR);
}

/* Norms of clip groups, of NaN and beyond the squares; limits of infinity. */
static void test_clipping(void)
{
    const double lr[] = {1};
    double p[3][2] = {{0}}, grad[3][2] = {{3, 4}, {6, 8}, {0, 1e200}};
    fastopt_tensor tensors[3];
    for (int i = 0; i < 3; i++) {
        tensors[i] = make("sgd", FASTOPT_FLOAT64, 2, p[i], grad[i], lr);
        tensors[i].clip_group = i == 2;
    }
    fastopt_call call = {.num_threads = 1, .clip_norm = 1};
    CHECK(fastopt_step_with(tensors, 3, &call) == FASTOPT_OK);
    CHECK(fabs(tensors[0].grad_norm - sqrt(125)) < 1e-14 && tensors[1].grad_norm == tensors[0].grad_norm);
    CHECK(tensors[2].grad_norm == 1e200 && call.grad_norm == 1e200);
    CHECK(fabs(p[0][0] + 3 / sqrt(125)) < 1e-6 && fabs(p[1][1] + 8 / sqrt(125)) < 1e-6 && fabs(p[2][1] + 1) < 1e-15);
    grad[0][0] = NAN;
    CHECK(fastopt_step_with(tensors, 3, &call) == FASTOPT_OK);
    CHECK(isnan(p[0][0]) && isnan(p[1][1]) && fabs(p[2][1] + 2) < 1e-15 && isnan(call.grad_norm));
    memset(p, 0, sizeof p);
    call.clip_norm = INFINITY;
    call.clip_value = INFINITY;
    CHECK(fastopt_step_with(tensors, 3, &call) == FASTOPT_OK);
    CHECK(isnan(p[0][0]) && p[0][1] == -4 && p[1][0] == -6 && p[1][1] == -8 && p[2][1] == -1e200);
    call.clip_norm = NAN;
    CHECK(fastopt_step_with(tensors, 3, &call) == FASTOPT_BAD_HYPER);
    CHECK(p[1][1] == -8);
}

/* Averages begin on step 1 as p is then, whatever is in them, and move without a gradient where a round is told. */
static void test_averages(void)
{
    const double lr[] = {1};
    const fastopt_options options = {.ema_decay = 0.5, .swa_start = 2, .swa_every = 1};
    double x[1] = {8}, grad[1] = {4}, ema[1] = {NAN}, swa[1] = {NAN};
    fastopt_tensor t = make("sgd", FASTOPT_FLOAT64, 1, x, grad, lr);
    t.options = &options;
    t.ema = ema;
    t.swa = swa;
    t.round = 1;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK);
    CHECK(x[0] == 4 && ema[0] == 6 && t.averaged == 1); /* 8 + 0.5 (4 - 8) */
    t.g = NULL;
    t.step = 2;
    t.round = 3;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK);
    CHECK(ema[0] == 6);
    CHECK(fastopt_average(&t, 1, 1) == FASTOPT_OK);
    CHECK(x[0] == 4 && ema[0] == 4.5 && swa[0] == 4 && t.averaged == 3); /* 4 + 0.5^2 (6 - 4) */
    t.round = 4;
    t.p = NULL;
    CHECK(fastopt_average(&t, 1, 1) == FASTOPT_BAD_TENSOR && ema[0] == 4.5);
    t.p = x;
    t.round = 0;
    CHECK(fastopt_average(&t, 1, 1) == FASTOPT_OK && ema[0] == 4.5);
}

/* Adds to each number the sums of another part, or fails where there are none. */
static int sum_parts(void *data, double *values, ptrdiff_t columns)
{
    const double *others = data;
    for (ptrdiff_t i = 0; others && i < columns; i++)
        values[i] += others[i];
    return others != NULL;
}

/* A part of a parameter is clipped, and its rule sums, as the whole is: p and g are 3 here and 4 in the other part. */
static void test_parts(void)
{
    const double lamb[] = {1, 0, 0, 0, 0}, lr[] = {1}, others[3 * FASTOPT_MAX_SUMS] = {16, 0, 0, 1}, none[3] = {0};
    double x[1] = {3}, y[1] = {3}, grad[1] = {3}, mean[1] = {0}, square[1] = {0};
    fastopt_tensor t = make("lamb", FASTOPT_FLOAT64, 1, x, grad, lamb);
    t.state[0] = mean;
    t.state[1] = square;
    t.whole_n = 2;
    fastopt_call call = {.num_threads = 1, .clip_norm = 1, .sum_parts = sum_parts};
    CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_NOT_SUMMED && x[0] == 3 && mean[0] == 0);
    call.clip_norm = 0;
    CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_NOT_SUMMED && x[0] == 3 && mean[0] == 3);
    call.data = (void *)others;
    CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_OK && fabs(x[0] - (3 - 5 / sqrt(2))) < 1e-12);
    call.clip_norm = INFINITY;
    CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_OK && call.grad_norm == 5 && t.grad_norm == 5);
    call.clip_norm = 0;
    call.check_finite = 1;
    CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_NONFINITE);
    call.data = (void *)none;
    t = make("sgd", FASTOPT_FLOAT64, 1, y, grad, lr);
    CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_OK && y[0] == 0);
    t.whole_n = -1;
    CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_BAD_TENSOR);
}

/* Decay that follows the step, or the learning rate. */
static void test_decay_options(void)
{
    const double half[] = {0.5};
    double x[4] = {1, -1, 2, 0.5}, grad[4] = {1, 1, -1, 0}, none[4] = {0}, largest = 0;
    const fastopt_options cautious = {.decoupled_decay = 0.25, .cautious_decay = 1};
    fastopt_tensor t = make("sgd", FASTOPT_FLOAT64, 4, x, grad, half);
    t.options = &cautious;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK);
    CHECK(x[0] == 0.5 - 0.125 && x[1] == -1.5 && x[2] == 2.5 && x[3] == 0.5 - 0.0625);

    const fastopt_options corrected = {.decoupled_decay = 0.5, .corrected_decay = 1};
    const fastopt_options with_peak = {.decoupled_decay = 0.5, .corrected_decay = 1, .peak_lr = 2};
    x[0] = 1;
    t.n = 1;
    t.g = none;
    t.options = &corrected;
    t.largest_lr = &largest;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK && x[0] == 0.75 && largest == 0.5);
    largest = 1;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK && x[0] == 0.75 * 0.875 && largest == 1);
    t.options = &with_peak;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK && x[0] == 0.75 * 0.875 * (1 - 0.0625) && largest == 1);
    t.largest_lr = NULL;
    x[0] = 1;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK && x[0] == 1 - 0.0625);
}

/* Every error comes before the first write, wherever in the list it is. */
static void test_errors(void)
{
    const double good[] = {0.5}, bad_lr[] = {-1}, nan_lr[] = {NAN}, bad_beta[] = {1e-3, 0.9, 1, 1e-8};
    const double lamb[] = {1e-3, 0.9, 0.999, 1e-6, 0.1}; /* its decay is mixed into its step */
    const fastopt_options cautious = {.cautious_decay = 1}, bad_peak = {.peak_lr = NAN};
    const fastopt_options bad_decay = {.weight_decay = -1}, bad_decoupled = {.decoupled_decay = INFINITY};
    double x[1] = {1}, y[1] = {1}, grad[1] = {1}, mean[1] = {0}, square[1] = {0};
#define REFUSED(status, ...)                                                                                           \
    do {                                                                                                               \
        fastopt_tensor both[] = {make("sgd", FASTOPT_FLOAT64, 1, x, grad, good),                                       \
                                 make("sgd", FASTOPT_FLOAT64, 1, y, grad, good)};                                      \
        fastopt_tensor *t = &both[1];                                                                                  \
        t->state[0] = mean;                                                                                            \
        t->state[1] = square;                                                                                          \
        __VA_ARGS__;                                                                                                   \
        CHECK(fastopt_step(both, 2, 1) == (status));                                                                   \
        CHECK(x[0] == 1 && y[0] == 1 && mean[0] == 0 && square[0] == 0);                                               \
    } while (0)
    REFUSED(FASTOPT_BAD_HYPER, t->hyper = bad_lr);
    REFUSED(FASTOPT_BAD_HYPER, t->hyper = nan_lr);
    REFUSED(FASTOPT_BAD_HYPER, t->rule = fastopt_find_rule("adam"); t->hyper = bad_beta);
    REFUSED(FASTOPT_BAD_HYPER, t->options = &bad_decay);
    REFUSED(FASTOPT_BAD_HYPER, t->options = &bad_decoupled);
    REFUSED(FASTOPT_BAD_HYPER, t->options = &bad_peak);
    REFUSED(FASTOPT_BAD_HYPER, t->options = &cautious; t->rule = fastopt_find_rule("lamb"); t->hyper = lamb);
    REFUSED(FASTOPT_BAD_TENSOR, t->rule = NULL);
    REFUSED(FASTOPT_BAD_TENSOR, t->hyper = NULL);
    REFUSED(FASTOPT_BAD_TENSOR, t->p = NULL);
    REFUSED(FASTOPT_BAD_TENSOR, t->n = -1);
    REFUSED(FASTOPT_BAD_TENSOR, t->step = 0);
    REFUSED(FASTOPT_BAD_TENSOR, t->rule = fastopt_find_rule("adam"); t->hyper = adam; t->state[1] = NULL);
}

static void test_queries(void)
{
    CHECK(fastopt_find_rule("abacus") == NULL && fastopt_find_hyper("abacus") == NULL);
    for (int i = 0; fastopt_rule_at(i); i++) {
        const fastopt_rule *rule = fastopt_rule_at(i);
        CHECK(rule->index == i && fastopt_find_rule(rule->name) == rule);
        CHECK(!strcmp(rule->hyper[0], "lr"));
        for (int h = 0; rule->hyper[h]; h++)
            CHECK(fastopt_find_hyper(rule->hyper[h]) != NULL);
    }
    const fastopt_hyper *momentum = fastopt_find_hyper("momentum"), *dampening = fastopt_find_hyper("dampening");
    CHECK(fastopt_in_range(momentum, 0) && !fastopt_in_range(momentum, 1) && !fastopt_in_range(momentum, NAN));
    CHECK(fastopt_in_range(dampening, 1) && !fastopt_in_range(dampening, nextafter(1, 2)));
    CHECK(!fastopt_in_range(fastopt_find_hyper("lr"), INFINITY));
    CHECK(fastopt_version()[0] && fastopt_compiler()[0]);
}

/* ---- Rules of the caller's own ---- */

/* The loop of Adam for one type, with the scalars in the order of fastopt_rule_create(). */
#define ADAM_LOOP(NAME, T, SQRT)                                                                                       \
    static void NAME(T *param, const T *grad, const void *state, const void *scalars, ptrdiff_t n)                     \
    {                                                                                                                  \
        T *const *buffers = state, *mean = buffers[0], *square = buffers[1];                                           \
        const T *k = scalars, beta1 = k[1], lr_t = k[4], eps_t = k[5], rest2 = k[6];                                   \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            mean[i] = beta1 * mean[i] + (1 - beta1) * grad[i];                                                         \
            square[i] = square[i] + rest2 * (grad[i] * grad[i] - square[i]);                                           \
            param[i] -= lr_t * mean[i] / (SQRT(square[i]) + eps_t);                                                    \
        }                                                                                                              \
    }
ADAM_LOOP(own_adam_float32, float, sqrtf)
ADAM_LOOP(own_adam_float64, double, sqrt)

static void own_adam_scalars(int64_t t, const fastopt_scalar_inputs *in, double *scalars)
{
    const double root2 = sqrt(1 - in->product[2]);
    CHECK(t >= 1 && in->product[0] == 0 && in->product[3] == 0);
    scalars[0] = in->hyper[0] * root2 / in->weight[1];
    scalars[1] = in->hyper[3] * root2 + sqrt(in->lost_mean[2]);
    scalars[2] = 1 - in->hyper[2];
}

static const char *const own_state[] = {"m", "v", NULL};
static const fastopt_kind own_kind[] = {FASTOPT_SIGNED, FASTOPT_NONNEGATIVE};
static const fastopt_hyper own_hyper[] = {{"lr", 0, INFINITY, 0, "finite and >= 0"},
                                          {"first", 0, 1, 0, "in [0, 1)"},
                                          {"second", 0, 1, 0, "in [0, 1)"},
                                          {"added", 0, INFINITY, 0, "finite and >= 0"},
                                          {0}};
static const int own_corrected[] = {0, 1, 1, 0};

static fastopt_rule_spec own_spec(void)
{
    return (fastopt_rule_spec){.size = sizeof(fastopt_rule_spec),
                               .name = "own_adam",
                               .state = own_state,
                               .kind = own_kind,
                               .hyper = own_hyper,
                               .corrected = own_corrected,
                               .n_scalars = 3,
                               .scalars = own_adam_scalars,
                               .float32 = own_adam_float32,
                               .float64 = own_adam_float64};
}

enum { MANY = 40011 }; /* elements of two pieces and a part */

/* The state of a tensor: numbers, or with rests codes of 8 bits. */
static void give_state(fastopt_tensor *t, double (*state)[MANY], double (*rests)[MANY])
{
    for (int s = 0; s < 2; s++) {
        t->state[s] = state[s];
        if (rests) {
            t->formats.state[s] = s ? FASTOPT_CODES_NONNEGATIVE : FASTOPT_CODES_SIGNED;
            t->state_rest[s] = rests[s];
        }
    }
}

static void fill_gradient(fastopt_dtype dtype, double *grad, int64_t step)
{
    for (int i = 0; i < MANY; i++) {
        const double x = (double)((i * 7 + step) % 11 - 5);
        if (dtype)
            grad[i] = x;
        else
            ((float *)grad)[i] = (float)x;
    }
}

/* A rule of the caller's own, written like Adam, has the bits of Adam: with options, other formats, threads, and betas
 * that change or round to 1. */
static void test_own_rule(void)
{
    static double memory[2][4][MANY], codes[2][2][MANY];
    static const double changing[][4] = {
        {1e-3, 0.9, 0.999, 1e-8}, {1e-2, 0.5, 0.9999, 1e-3}, {0.1, 0.99999999, 0.6, 0}};
    static const fastopt_options options = {.weight_decay = 0.1, .decoupled_decay = 0.01};
    const fastopt_rule_spec spec = own_spec();
    char problem[200] = "";
    fastopt_rule *own = fastopt_rule_create(&spec, problem, sizeof problem);
    CHECK(own && !problem[0] && own->index == -1 && !strcmp(own->name, "own_adam"));
    CHECK(!strcmp(fastopt_rule_corrected(own)[1], "second") && !fastopt_rule_corrected(own)[2]);
    CHECK(fastopt_rule_takes_rows(own) && !fastopt_rule_catch_up(own));
    for (int variant = 0; own && variant < 6; variant++) {
        const fastopt_dtype dtype = variant % 2 ? FASTOPT_FLOAT64 : FASTOPT_FLOAT32;
        fastopt_decay decays[2][4];
        double hyper[4];
        memset(memory, 0, sizeof memory);
        memset(codes, 0, sizeof codes);
        for (int64_t step = 1; step <= 6; step++) {
            memcpy(hyper, changing[(step - 1) / 2], sizeof hyper);
            for (int which = 0; which < 2; which++) {
                double *param = memory[which][0], *grad = memory[which][1];
                fastopt_tensor t = make("adam", dtype, MANY, param, grad, hyper);
                t.rule = which ? own : t.rule;
                t.step = step;
                t.decays = decays[which];
                t.options = variant / 2 ? &options : NULL;
                give_state(&t, memory[which] + 2, variant / 2 == 2 ? codes[which] : NULL);
                fill_gradient(dtype, grad, step);
                CHECK(fastopt_step(&t, 1, which ? 2 : 1) == FASTOPT_OK);
            }
            CHECK(!memcmp(memory[0], memory[1], sizeof memory[0]) && !memcmp(codes[0], codes[1], sizeof codes[0]));
        }
    }
    fastopt_rule_destroy(own);
    fastopt_rule_destroy(NULL);
}

/* A rule without scalars and state; values out of range are refused by the step. */
#define PLAIN_LOOP(NAME, T)                                                                                            \
    static void NAME(T *param, const T *grad, const void *state, const void *scalars, ptrdiff_t n)                     \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            param[i] -= *(const T *)scalars * grad[i];                                                                 \
    }
PLAIN_LOOP(plain_float32, float)
PLAIN_LOOP(plain_float64, double)

static void test_own_rule_without_state(void)
{
    const double good[] = {0.5}, bad[] = {-1};
    const fastopt_rule_spec spec = {.size = sizeof spec,
                                    .name = "plain",
                                    .hyper = (const fastopt_hyper[]){own_hyper[0], {0}},
                                    .float32 = plain_float32,
                                    .float64 = plain_float64};
    fastopt_rule *own = fastopt_rule_create(&spec, NULL, 0);
    double x[1] = {1}, grad[1] = {1};
    fastopt_tensor t = make("sgd", FASTOPT_FLOAT64, 1, x, grad, good);
    t.rule = own;
    CHECK(own && fastopt_step(&t, 1, 1) == FASTOPT_OK && x[0] == 0.5);
    t.hyper = bad;
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_BAD_HYPER && x[0] == 0.5);
    fastopt_rule_destroy(own);
}

/* A rule with sums, written like LAMB: the terms of its norms, which its first pass writes beside the state. */
#define LAMB_LOOPS(TERMS, LOOP, T, SQRT)                                                                               \
    static void TERMS(const T *param, const T *grad, const void *state, const void *scalars, const void *terms,        \
                      ptrdiff_t n)                                                                                     \
    {                                                                                                                  \
        T *const *buffers = state, *mean = buffers[0], *square = buffers[1];                                           \
        T *const *of_sums = terms;                                                                                     \
        const T *k = scalars;                                                                                          \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            mean[i] = k[1] * mean[i] + (1 - k[1]) * grad[i];                                                           \
            square[i] = square[i] + k[7] * (grad[i] * grad[i] - square[i]);                                            \
            of_sums[0][i] = param[i];                                                                                  \
            of_sums[1][i] = k[5] * mean[i] / (SQRT(square[i]) + k[6]) + k[4] * param[i];                               \
        }                                                                                                              \
    }                                                                                                                  \
    static void LOOP(T *param, const T *grad, const void *state, const void *scalars, ptrdiff_t n)                     \
    {                                                                                                                  \
        T *const *buffers = state, *mean = buffers[0], *square = buffers[1];                                           \
        const T *k = scalars;                                                                                          \
        (void)grad;                                                                                                    \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            param[i] -= k[8] * (k[5] * mean[i] / (SQRT(square[i]) + k[6]) + k[4] * param[i]);                          \
    }
LAMB_LOOPS(lamb_terms_float32, lamb_float32, float, sqrtf)
LAMB_LOOPS(lamb_terms_float64, lamb_float64, double, sqrt)

static void lamb_scalars(int64_t t, const fastopt_scalar_inputs *in, double *scalars)
{
    const double root2 = sqrt(1 - in->product[2]);
    CHECK(t >= 1);
    scalars[0] = root2 / in->weight[1];
    scalars[1] = in->hyper[3] * root2 + sqrt(in->lost_mean[2]);
    scalars[2] = 1 - in->hyper[2];
}

static void lamb_combine(int64_t t, const fastopt_scalar_inputs *in, const double *norms, double *scalars)
{
    CHECK(t >= 1 && in->weight[1] > 0);
    scalars[0] = in->hyper[0] * (norms[0] == 0 || norms[1] == 0 ? 1 : norms[0] / norms[1]);
}

static const fastopt_hyper lamb_ranges[] = {{"lr", 0, INFINITY, 0, "finite and >= 0"},
                                            {"beta1", 0, 1, 0, "in [0, 1)"},
                                            {"beta2", 0, 1, 0, "in [0, 1)"},
                                            {"eps", 0, INFINITY, 0, "finite and >= 0"},
                                            {"decay", 0, INFINITY, 0, "finite and >= 0"},
                                            {0}};
static const int lamb_corrected[] = {0, 1, 1, 0, 0};
static const fastopt_reduction lamb_norms[] = {FASTOPT_NORM, FASTOPT_NORM};

static fastopt_rule_spec lamb_spec(void)
{
    return (fastopt_rule_spec){.size = sizeof(fastopt_rule_spec),
                               .name = "own_lamb",
                               .state = own_state,
                               .kind = own_kind,
                               .hyper = lamb_ranges,
                               .corrected = lamb_corrected,
                               .n_scalars = 3,
                               .scalars = lamb_scalars,
                               .float32 = lamb_float32,
                               .float64 = lamb_float64,
                               .n_sums = 2,
                               .reductions = lamb_norms,
                               .gather_float32 = lamb_terms_float32,
                               .gather_float64 = lamb_terms_float64,
                               .gather_writes = 1,
                               .n_combined = 1,
                               .combine = lamb_combine};
}

/* Has the bits of LAMB, with options and other formats, on any number of threads. */
static void test_own_rule_with_sums(void)
{
    static double memory[2][4][MANY], codes[2][2][MANY];
    static const double hyper[] = {1e-2, 0.9, 0.999, 1e-6, 0.01};
    static const fastopt_options options = {.weight_decay = 0.1, .decoupled_decay = 0.01};
    const fastopt_rule_spec spec = lamb_spec();
    char problem[200] = "";
    fastopt_rule *own = fastopt_rule_create(&spec, problem, sizeof problem);
    CHECK(own && !problem[0] && own->gathers == FASTOPT_BY_TENSOR && own->gather_writes);
    CHECK(!fastopt_rule_takes_rows(own));
    for (int variant = 0; own && variant < 6; variant++) {
        const fastopt_dtype dtype = variant % 2 ? FASTOPT_FLOAT64 : FASTOPT_FLOAT32;
        memset(memory, 0, sizeof memory);
        memset(codes, 0, sizeof codes);
        for (int64_t step = 1; step <= 4; step++)
            for (int which = 0; which < 2; which++) {
                double *param = memory[which][0], *grad = memory[which][1];
                fastopt_tensor t = make("lamb", dtype, MANY, param, grad, hyper);
                fastopt_call call = {.num_threads = which ? 3 : 1, .clip_norm = variant / 2 ? 1 : 0};
                t.rule = which ? own : t.rule;
                t.step = step;
                t.options = variant / 2 ? &options : NULL;
                give_state(&t, memory[which] + 2, variant / 2 == 2 ? codes[which] : NULL);
                fill_gradient(dtype, grad, step);
                CHECK(fastopt_step_with(&t, 1, &call) == FASTOPT_OK);
            }
        CHECK(!memcmp(memory[0], memory[1], sizeof memory[0]) && !memcmp(codes[0], codes[1], sizeof codes[0]));
        CHECK(memory[0][0][0] != 0);
    }
    fastopt_rule_destroy(own);
}

/* The four reductions of the terms p and p. */
static double reductions_found[FASTOPT_MAX_SUMS];

static void same_terms_float32(const float *param, const float *grad, const void *state, const void *scalars,
                               const void *terms, ptrdiff_t n)
{
    (void)grad, (void)state, (void)scalars;
    for (int s = 0; s < FASTOPT_MAX_SUMS; s++)
        memcpy(((float *const *)terms)[s], param, (size_t)n * sizeof *param);
}

static void same_terms_float64(const double *param, const double *grad, const void *state, const void *scalars,
                               const void *terms, ptrdiff_t n)
{
    (void)grad, (void)state, (void)scalars;
    for (int s = 0; s < FASTOPT_MAX_SUMS; s++)
        memcpy(((double *const *)terms)[s], param, (size_t)n * sizeof *param);
}

static void keep_reductions(int64_t t, const fastopt_scalar_inputs *in, const double *reduced, double *scalars)
{
    (void)t, (void)in;
    memcpy(reductions_found, reduced, sizeof reductions_found);
    scalars[0] = 0;
}

static void test_reductions(void)
{
    static const fastopt_reduction all[] = {FASTOPT_SUM, FASTOPT_MEAN, FASTOPT_NORM, FASTOPT_RMS};
    fastopt_rule_spec spec = {.size = sizeof spec,
                              .name = "plain",
                              .hyper = (const fastopt_hyper[]){own_hyper[0], {0}},
                              .float32 = plain_float32,
                              .float64 = plain_float64,
                              .n_sums = 4,
                              .reductions = all,
                              .gather_float32 = same_terms_float32,
                              .gather_float64 = same_terms_float64,
                              .n_combined = 1,
                              .combine = keep_reductions};
    const double lr[] = {0};
    double x[] = {3, -4, 12, 0, 0}, grad[5] = {0};
    fastopt_rule *own = fastopt_rule_create(&spec, NULL, 0);
    fastopt_tensor t = make("sgd", FASTOPT_FLOAT64, 5, x, grad, lr);
    t.rule = own;
    CHECK(own && fastopt_step(&t, 1, 1) == FASTOPT_OK);
    CHECK(reductions_found[0] == 11 && reductions_found[1] == 11.0 / 5);
    CHECK(reductions_found[2] == 13 && reductions_found[3] == sqrt(169.0 / 5));
    x[0] = 3e200, x[1] = 4e200, x[2] = 0; /* whose squares overflow */
    CHECK(fastopt_step(&t, 1, 1) == FASTOPT_OK && fabs(reductions_found[2] / 5e200 - 1) < 1e-15);
    fastopt_rule_destroy(own);
}

static void test_specs_that_are_refused(void)
{
    static const char *const five[] = {"a", "b", "c", "d", "e", NULL}, *const twice[] = {"m", "m", NULL};
    static const char *const no_name[] = {"1m", NULL};
    static const fastopt_hyper wide[] = {
        {"lr", 0, INFINITY, 0, "finite and >= 0"}, {"beta", 0, 1, 1, "in [0, 1]"}, {0}};
    static const fastopt_hyper empty[] = {{"lr", 0, INFINITY, 0, ">= 0"}, {"a", 1, 1, 0, "none"}, {0}};
    static const fastopt_hyper no_words[] = {{"lr", 0, INFINITY, 0, ">= 0"}, {"a", 0, 1, 0, NULL}, {0}};
    static const fastopt_hyper narrow[] = {{"lr", 0, 1, 0, "in [0, 1)"}, {0}};
    char problem[200];
#define REFUSED_SPEC(words, ...)                                                                                       \
    do {                                                                                                               \
        fastopt_rule_spec spec = own_spec();                                                                           \
        __VA_ARGS__;                                                                                                   \
        CHECK(!fastopt_rule_create(&spec, problem, sizeof problem) && !strcmp(problem, words));                        \
    } while (0)
    REFUSED_SPEC("name must be an identifier, got \"my rule\"", spec.name = "my rule");
    REFUSED_SPEC("name must be an identifier, got \"\"", spec.name = NULL);
    REFUSED_SPEC("state must have at most 4 buffers, got more", spec.state = five; spec.kind = NULL);
    REFUSED_SPEC("names of state must differ, got m twice", spec.state = twice);
    REFUSED_SPEC("state[0] must be an identifier, got \"1m\"", spec.state = no_name);
    REFUSED_SPEC("the first hyperparameter must be lr, got none", spec.hyper = NULL);
    REFUSED_SPEC("the first hyperparameter must be lr, got first", spec.hyper = own_hyper + 1);
    REFUSED_SPEC("lr must be from 0 to infinity, which does not belong to the range", spec.hyper = narrow);
    REFUSED_SPEC("the range of a must hold a number, got 1 to 1", spec.hyper = empty);
    REFUSED_SPEC("the range of a must be given in words too", spec.hyper = no_words);
    REFUSED_SPEC("the range of beta must lie in [0, 1), since it corrects a bias, got in [0, 1]", spec.hyper = wide);
    REFUSED_SPEC("n_scalars must be from 0 to 8, so that the loop reads at most 12 numbers, got 9", spec.n_scalars = 9);
    REFUSED_SPEC("scalars must be NULL with n_scalars 0", spec.n_scalars = 0);
    REFUSED_SPEC("float32 must be a loop, got NULL", spec.float32 = NULL);
    REFUSED_SPEC("float64 must be a loop, got NULL", spec.float64 = NULL);
    static const fastopt_reduction unknown[] = {FASTOPT_NORM, (fastopt_reduction)4};
#define REFUSED_SUMS(words, ...) REFUSED_SPEC(words, spec = lamb_spec(); __VA_ARGS__)
    REFUSED_SUMS("n_sums must be from 0 to 4, got 5", spec.n_sums = 5);
    REFUSED_SUMS("reductions must be given with n_sums 2", spec.reductions = NULL);
    REFUSED_SUMS("reductions must be NULL with n_sums 0", spec.n_sums = 0);
    REFUSED_SUMS("reductions[1] must be a fastopt_reduction, got 4", spec.reductions = unknown);
    REFUSED_SUMS("gather_float64 must be given with n_sums 2", spec.gather_float64 = NULL);
    REFUSED_SUMS("combine must be given with n_sums 2", spec.combine = NULL);
    REFUSED_SUMS("n_combined must be from 1 to 7 with n_sums 2, got 8", spec.n_combined = 8);
    REFUSED_SUMS("n_combined must be from 1 to 7 with n_sums 2, got 0", spec.n_combined = 0);
    REFUSED_SUMS("n_scalars must be from 0 to 4, so that the loop reads at most 12 numbers, got 5", spec.n_combined = 3;
                 spec.n_scalars = 5);
    REFUSED_SPEC("gather_writes must be 0 with n_sums 0", spec.gather_writes = 1);
    REFUSED_SPEC("n_combined must be from 0 to 0 with n_sums 0, got 1", spec.n_combined = 1);
    fastopt_rule_spec spec = own_spec();
    spec.size = 8;
    CHECK(!fastopt_rule_create(&spec, problem, sizeof problem) && strstr(problem, "got 8"));
    CHECK(!fastopt_rule_create(&spec, NULL, 0));
}

int main(void)
{
    test_adam();
    test_same_bits();
    test_many();
    test_strided();
    test_carry();
    test_decays();
    test_bad_shapes();
    test_two_calls();
    test_clipping();
    test_averages();
    test_parts();
    test_decay_options();
    test_errors();
    test_queries();
    test_own_rule();
    test_own_rule_without_state();
    test_own_rule_with_sums();
    test_reductions();
    test_specs_that_are_refused();
    return failures;
}
