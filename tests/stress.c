/* Threads of a program step at once, each on several threads, on their own tensors and gradients they share;
 * then a forked child steps.  Every result must be that of a program that does one step after the other.
 *
 *     stress [THREADS [ROUNDS [FORK]]]          FORK 0: no child; exits with the number of wrong results */
#include "fastopt.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N = 40000, ARRAYS = 5, STEPS = 4 }; /* elements of all arrays: some chunks for each of three threads */

static const ptrdiff_t sizes[ARRAYS] = {17, N / 2, 1, N / 4, N - N / 2 - N / 4 - 18};
static double gradients[STEPS][N];

/* One thread's optimizer: a rule of its own, float64 for every second thread. */
typedef struct {
    int index, num_threads;
    fastopt_tensor tensors[ARRAYS];
    fastopt_options options;
    fastopt_layout layout;
    ptrdiff_t shapes[ARRAYS][2];
    double hyper[FASTOPT_MAX_HYPER], carry[ARRAYS][FASTOPT_MAX_CARRY];
    double p[N], state[FASTOPT_MAX_STATE][N];
    float single[STEPS][N];
} optimizer;

static void make(optimizer *o, int index)
{
    int rules = 0;
    while (fastopt_rule_at(rules))
        rules++;
    memset(o, 0, sizeof *o);
    o->index = index;
    const fastopt_rule *rule = fastopt_rule_at(index % rules);
    const fastopt_dtype dtype = index % 2 ? FASTOPT_FLOAT64 : FASTOPT_FLOAT32;
    const ptrdiff_t size = dtype == FASTOPT_FLOAT64 ? sizeof(double) : sizeof(float);
    for (int i = 0; rule->hyper[i]; i++) {
        const fastopt_hyper *range = fastopt_rule_hyper(rule, i);
        o->hyper[i] = fastopt_in_range(range, 0.5) ? 0.5 : range->high > 1 ? 1.5 : -0.5;
    }
    o->options.weight_decay = index % 3 ? 0 : 0.01;
    /* The last array backwards. */
    o->layout = (fastopt_layout){.ndim = 1, .shape = {sizes[ARRAYS - 1]}, .p_stride = {-size}, .g_stride = {size}};
    ptrdiff_t at = 0;
    for (int i = 0; i < ARRAYS; at += sizes[i++]) {
        fastopt_tensor *t = &o->tensors[i];
        const ptrdiff_t columns = sizes[i] % 100 ? 1 : 100;
        memcpy(o->shapes[i], (ptrdiff_t[]){sizes[i] / columns, columns}, sizeof o->shapes[i]);
        *t = (fastopt_tensor){.rule = rule,
                              .dtype = dtype,
                              .ndim = 2,
                              .shape = o->shapes[i],
                              .n = sizes[i],
                              .p = (char *)o->p + at * size,
                              .carry = o->carry[i],
                              .hyper = o->hyper,
                              .options = &o->options};
        for (int s = 0; rule->state[s]; s++)
            t->state[s] = (char *)o->state[s] + at * size;
        if (i == ARRAYS - 1) {
            t->layout = &o->layout;
            t->p = (char *)t->p + (t->n - 1) * size;
        }
    }
    for (int step = 0; step < STEPS; step++)
        for (ptrdiff_t i = 0; i < N; i++)
            o->single[step][i] = (float)gradients[step][i];
}

/* All steps; with a tuner the number of threads is up to that. */
static int run(optimizer *o, int num_threads, int tuned)
{
    fastopt_tuner tuner = {0};
    fastopt_call call = {.num_threads = num_threads, .tuner = tuned ? &tuner : NULL, .check_finite = o->index % 2};
    int failures = 0;
    for (int step = 0; step < STEPS; step++) {
        ptrdiff_t at = 0;
        for (int i = 0; i < ARRAYS; at += sizes[i++]) {
            o->tensors[i].step = step + 1;
            o->tensors[i].g = o->index % 2 ? (void *)&gradients[step][at] : (void *)&o->single[step][at];
        }
        failures += fastopt_step_with(o->tensors, ARRAYS, &call) != FASTOPT_OK;
    }
    return failures;
}

static int differ(const optimizer *a, const optimizer *b)
{
    return memcmp(a->p, b->p, sizeof a->p) || memcmp(a->state, b->state, sizeof a->state) ||
           memcmp(a->carry, b->carry, sizeof a->carry);
}

static void *work(void *data)
{
    optimizer *o = data;
    return (void *)(ptrdiff_t)run(o, o->num_threads, o->index % 5 == 4);
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 4, rounds = argc > 2 ? atoi(argv[2]) : 20;
    const int forks = argc > 3 ? atoi(argv[3]) : 1;
    optimizer *optimizers = malloc((size_t)threads * sizeof *optimizers), *serial = malloc(sizeof *serial);
    pthread_t *ids = malloc((size_t)threads * sizeof *ids);
    if (!optimizers || !serial || !ids)
        return 1;
    for (int step = 0; step < STEPS; step++)
        for (int i = 0; i < N; i++)
            gradients[step][i] = (i * 7 + step * 13) % 101 - 50;

    int failures = 0;
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < threads; i++) {
            make(&optimizers[i], round * threads + i);
            optimizers[i].num_threads = 1 + i % 3;
        }
        for (int i = 0; i < threads; i++)
            if (pthread_create(&ids[i], NULL, work, &optimizers[i]))
                return 1;
        for (int i = 0; i < threads; i++) {
            void *failed;
            pthread_join(ids[i], &failed);
            failures += failed != NULL;
        }
        for (int i = 0; i < threads; i++) {
            make(serial, round * threads + i);
            failures += run(serial, 1, 0) != 0 || differ(&optimizers[i], serial);
        }
    }

    if (forks) {
        fflush(stdout);
        const pid_t child = fork();
        if (child == 0) {
            make(&optimizers[0], 9);
            make(serial, 9);
            const int failed = run(&optimizers[0], 3, 0) + run(serial, 1, 0) + differ(&optimizers[0], serial);
            _exit(failed != 0);
        }
        int status = 1;
        failures += child < 0 || waitpid(child, &status, 0) != child || status != 0;
    }
    printf("%d optimizers, %d wrong\n", threads * rounds + forks, failures);
    free(optimizers);
    free(serial);
    free(ids);
    return failures;
}
