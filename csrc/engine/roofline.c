/* The memory limit of this machine: a plain loop moves the bytes of a step, an equal share on each thread. */
#include "engine.h"

#include "../include/fastopt_testing.h"
#include "../threads/threads.h"

typedef struct {
    const fastopt_typed_kernels *kernels;
    const fastopt_tensor *tensor;
    void *state[FASTOPT_MAX_STATE]; /* buffers of p's shape; buffers of rows and columns are too small to matter */
    fastopt_stream streams[2 * (FASTOPT_MAX_STATE + 2)];
    int n_state, n_streams, shares;
    volatile ptrdiff_t next;
} traffic;

/* Adds the streams of a buffer. */
static void add_streams(traffic *job, const void *data, void *rest, int format, int is_read_only)
{
    const fastopt_format_info *info = &fastopt_format_infos[format];
    const ptrdiff_t native = job->tensor->dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double);
    job->streams[job->n_streams++] = (fastopt_stream){(char *)data, format ? info->bytes : native, 1, is_read_only};
    if (info->rest_bytes)
        job->streams[job->n_streams++] = (fastopt_stream){rest, info->rest_bytes, info->group, is_read_only};
}

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
        if (job->n_streams)
            job->kernels->move(job->streams, job->n_streams, begin, end);
        else
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
    traffic job = {.kernels = &kernels->by_dtype[tensor->dtype], .tensor = tensor, .shares = num_threads};
    for (int s = 0; tensor->rule->state[s]; s++)
        if (tensor->rule->extent[s] == FASTOPT_WHOLE)
            job.state[job.n_state++] = tensor->state[s];
    if (!fastopt_is_native(tensor)) {
        add_streams(&job, tensor->p, tensor->p_rest, tensor->formats.p, 0);
        add_streams(&job, tensor->g, NULL, tensor->formats.g, 1);
        for (int s = 0; tensor->rule->state[s]; s++)
            if (tensor->rule->extent[s] == FASTOPT_WHOLE)
                add_streams(&job, tensor->state[s], tensor->state_rest[s], tensor->formats.state[s], 0);
    }
    fastopt_run(num_threads, move_shares, &job);
    return FASTOPT_OK;
}
