/* A program in C and C++ that makes steps and writes its buffers to the standard output: of Adam alone; with an
 * argument, of several rules with options, averages and rows, some in two calls. */
#include "fastopt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1000, TENSORS = 4, ROW = 10 };

static float p[TENSORS][N], g[TENSORS][N], state[TENSORS][FASTOPT_MAX_STATE][N], ema[TENSORS][N];
static double carry[TENSORS][FASTOPT_MAX_CARRY];
static int64_t last_step[N / ROW];

static fastopt_tensor make(int i, const char *rule, const double *hyper)
{
    fastopt_tensor t;
    memset(&t, 0, sizeof t);
    t.rule = fastopt_find_rule(rule);
    t.dtype = FASTOPT_FLOAT32;
    t.n = N;
    t.p = p[i];
    t.g = g[i];
    for (int s = 0; s < FASTOPT_MAX_STATE; s++)
        t.state[s] = state[i][s];
    t.carry = carry[i];
    t.hyper = hyper;
    t.step = 1;
    return t;
}

static void fill_gradient(int i, int64_t step)
{
    for (int j = 0; j < N; j++)
        g[i][j] = (float)((i + j + step) % 7 - 3);
}

static const double adam[] = {1e-2, 0.9, 0.999, 1e-8}, nadam[] = {1e-2, 0.9, 0.999, 1e-8, 4e-3};
static const double novograd[] = {1e-2, 0.9, 0.99, 1e-8, 0, 0}, momentum[] = {1e-2, 0.9, 0};

static fastopt_status step_adam(void)
{
    fastopt_tensor t = make(0, "adam", adam);
    fastopt_status status = FASTOPT_OK;
    for (; status == FASTOPT_OK && t.step <= 5; t.step++) {
        fill_gradient(0, t.step);
        status = fastopt_step(&t, 1, 2);
    }
    return status;
}

static fastopt_status step_several(double *norm)
{
    static const ptrdiff_t shape[] = {N / ROW, ROW};
    fastopt_tensor tensors[TENSORS];
    fastopt_options options;
    fastopt_call call;
    fastopt_status status = FASTOPT_OK;
    memset(&options, 0, sizeof options);
    memset(&call, 0, sizeof call);
    options.decoupled_decay = 0.1;
    options.ema_decay = 0.5;
    call.num_threads = 2;
    call.clip_norm = 1;
    tensors[0] = make(0, "adam", adam);
    tensors[1] = make(1, "nadam", nadam);
    tensors[2] = make(2, "novograd", novograd);
    tensors[3] = make(3, "momentum", momentum);
    for (int i = 0; i < 3; i++) {
        tensors[i].options = &options;
        tensors[i].ema = ema[i];
    }
    tensors[3].last_step = last_step;
    tensors[3].row_length = ROW;
    for (int i = 0; i < TENSORS; i++) {
        tensors[i].ndim = 2;
        tensors[i].shape = shape;
    }
    for (int round = 1; status == FASTOPT_OK && round <= 6; round++) {
        for (int i = 0; i < TENSORS; i++) {
            fill_gradient(i, round);
            tensors[i].round = i < 3 ? round : 0;
            tensors[i].g = round == 4 && i == 1 ? NULL : g[i];
        }
        call.part = round % 2 ? FASTOPT_ALL : FASTOPT_GATHER;
        status = fastopt_step_with(tensors, TENSORS, &call);
        call.part = FASTOPT_UPDATE;
        void *block = malloc(3000); /* so that copies of the tensors lie elsewhere than before */
        if (status == FASTOPT_OK && round % 2 == 0)
            status = fastopt_step_with(tensors, TENSORS, &call);
        free(block);
        if (status == FASTOPT_OK)
            status = fastopt_average(tensors, TENSORS, 1);
        if (status == FASTOPT_OK && round == 5)
            status = fastopt_catch_up(tensors + 3, 1, 1);
        for (int i = 0; i < TENSORS; i++)
            tensors[i].step += tensors[i].g != NULL;
        norm[round - 1] = call.grad_norm;
    }
    return status;
}

int main(int argc, char **argv)
{
    double norm[6] = {0};
    const fastopt_status status = argc > 1 ? step_several(norm) : step_adam();
    if (status != FASTOPT_OK) {
        fprintf(stderr, "%s: %s\n", argv[0], fastopt_status_text(status));
        return (int)status;
    }
    if (argc == 1)
        return fwrite(p[0], sizeof p[0], 1, stdout) != 1;
    return fwrite(p, sizeof p, 1, stdout) + fwrite(state, sizeof state, 1, stdout) +
               fwrite(ema, sizeof ema, 1, stdout) + fwrite(norm, sizeof norm, 1, stdout) !=
           4;
}
