/* The memory limit of this machine: a loop with nothing around it, one equal share per thread. */
#include "engine.h"

#include "../include/fastopt_testing.h"
#include "../threads/threads.h"

typedef struct {
    const fastopt_typed_kernels *kernels;
    const fastopt_tensor *tensor;
    void *state[FASTOPT_MAX_STATE]; /* the buffers as large as p; those of rows and columns are too small to count */
    int n_state, shares;
    volatile ptrdiff_t next;
} traffic;

static int move_shares(void *data, int thread)
{
    (void)thread;
    int moved = 0;
    traffic *job = data;
    const fastopt_tensor *t = job->tensor;
    const ptrdiff_t lines = t->n / CACHE_LINE;
    for (ptrdiff_t i; (i = fetch_add(&job->next, 1)) < job->shares;) {
        const ptrdiff_t begin = i ? part_end(lines, job->shares, (int)i - 1) * CACHE_LINE : 0;
        const ptrdiff_t end = i == job->shares - 1 ? t->n : part_end(lines, job->shares, (int)i) * CACHE_LINE;
        job->kernels->traffic(t->p, t->g, job->state, job->n_state, begin, end);
        moved++;
    }
    return moved;
}

fastopt_status fastopt_traffic(const fastopt_tensor *tensor, int num_threads)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    traffic job = {.kernels = &kernels->of[tensor->dtype], .tensor = tensor, .shares = num_threads};
    for (int s = 0; tensor->rule->state[s]; s++)
        if (tensor->rule->extent[s] == FASTOPT_WHOLE)
            job.state[job.n_state++] = tensor->state[s];
    fastopt_run(num_threads, move_shares, &job);
    return FASTOPT_OK;
}
