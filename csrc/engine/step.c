/* The order of a step. */
#include "engine.h"

#include "../threads/threads.h"
#include "../threads/tuner.h"

#include <stdlib.h>
#include <string.h>

static int valid_call(const fastopt_call *call)
{
    return (!call->grad_scale || IN_RANGE(grad_scale, call->grad_scale)) &&
           (!call->clip_norm || IN_RANGE(clip_norm, call->clip_norm)) &&
           (!call->clip_value || IN_RANGE(clip_value, call->clip_value));
}

/* ---- The work of each pass, on units begin to end of a tensor ---- */

static void update(fastopt_job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    job->kernels->by_dtype[t->dtype].update(t, &job->pass, begin, end);
}

static void check_finite(fastopt_job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    if (!job->kernels->by_dtype[t->dtype].finite(t, begin, end))
        fetch_add(&job->nonfinite, 1);
}

static void catch_up(fastopt_job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    if (t->last_step)
        job->kernels->by_dtype[t->dtype].catch_up(t, begin, end);
}

static void average(fastopt_job *job, const fastopt_tensor *t, ptrdiff_t begin, ptrdiff_t end)
{
    job->kernels->by_dtype[t->dtype].average(t, begin, end);
}

/* ---- A step ---- */

/* Prepares the update: factors and checks of gradients, scalars, passes that gather. */
static fastopt_status prepare(fastopt_job *job)
{
    const fastopt_call *call = job->call;
    fastopt_status status = FASTOPT_OK;
    job->pass.scale = call->grad_scale ? 1 / call->grad_scale : 1;
    if (call->clip_norm)
        status = fastopt_clip_by_norm(job);
    /* A finite norm proves that all gradients are finite.  An infinite one may come from finite gradients. */
    if (status == FASTOPT_OK && call->check_finite && !(call->clip_norm && call->grad_norm <= DBL_MAX)) {
        fastopt_make_pass(job, ELEMENTS, check_finite);
        status = fastopt_agree_on_finite(job);
    }
    if (status != FASTOPT_OK)
        return status;
    fastopt_compute_scalars(job);
    return job->gathers ? fastopt_gather(job) : FASTOPT_OK;
}

static fastopt_status step(fastopt_job *job)
{
    const fastopt_call *call = job->call;
    const int clips = call->clip_value && call->clip_value <= DBL_MAX;
    job->pass.clip_value = clips ? call->clip_value : INFINITY;
    job->pass.zero_grads = call->zero_grads;
    if (call->part == FASTOPT_UPDATE) {
        fastopt_load_factors(job);
    } else {
        const fastopt_status status = prepare(job);
        if (status != FASTOPT_OK)
            return status;
    }
    if (call->part == FASTOPT_GATHER) {
        fastopt_store_factors(job);
        return FASTOPT_OK;
    }
    job->pass.plain = !job->pass.own_scales && job->pass.scale == 1 && !clips && !call->zero_grads;
    fastopt_find_missed_rows(job);
    fastopt_make_pass(job, job->n_matrices ? ELEMENTS_WITHOUT_TILES : ELEMENTS, update);
    if (job->notes_steps)
        fastopt_note_steps(job, 0);
    return FASTOPT_OK;
}

/* Whether a GATHER has prepared this step of all tensors.  Each GATHER serves one UPDATE. */
static int use_gathered(fastopt_tensor *tensors, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i++)
        if (tensors[i].g && tensors[i].engine.gathered != tensors[i].step)
            return 0;
    for (ptrdiff_t i = 0; i < count; i++)
        tensors[i].engine.gathered = 0;
    return 1;
}

/* Makes the step on the number of threads that the tuner chooses. */
static fastopt_status step_with_tuner(fastopt_job *job)
{
    fastopt_tuner *tuner = job->call->tuner;
    job->threads = fastopt_next_threads(tuner, job->threads);
    const double begin = fastopt_now();
    const fastopt_status status = step(job);
    if (status == FASTOPT_OK)
        fastopt_note_time(tuner, job->threads, fastopt_now() - begin - job->seconds_waited, job->elements);
    return status;
}

static fastopt_status step_all(fastopt_tensor *tensors, ptrdiff_t count, void *argument)
{
    fastopt_call *call = argument;
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    if (!valid_call(call))
        return FASTOPT_BAD_HYPER;
    fastopt_status status = fastopt_check(tensors, count);
    if (status != FASTOPT_OK)
        return status;
    if (call->part == FASTOPT_UPDATE && !use_gathered(tensors, count))
        return FASTOPT_BAD_TENSOR;

    fastopt_sum few[FEW_PIECES][FASTOPT_MAX_SUMS];
    void *matrices = NULL;
    fastopt_job job = {.kernels = kernels, .call = call, .tensors = tensors, .count = count, .sums = few};
    fastopt_begin_passes(&job, ELEMENTS, call->num_threads);
    for (ptrdiff_t i = 0; i < count; i++)
        job.gathers |= tensors[i].g && tensors[i].rule->gathers > FASTOPT_BY_ROW;
    for (ptrdiff_t i = 0; job.gathers && i < count; i++)
        job.n_matrices += has_tiles(&tensors[i]);
    if ((job.gathers || call->clip_norm || (call->check_finite && call->sum_parts)) && call->part != FASTOPT_UPDATE) {
        if (job.n_matrices && !(matrices = fastopt_lay_out_matrices(&job)))
            return FASTOPT_NO_MEMORY;
        if (!fastopt_allocate_sums(&job, few)) {
            free(matrices);
            return FASTOPT_NO_MEMORY;
        }
    }
    status = call->tuner && job.threads > 1 ? step_with_tuner(&job) : step(&job);
    if (job.sums != few)
        free(job.sums);
    free(job.of_parts);
    free(matrices);
    return status;
}

/* ---- Between steps ---- */

static fastopt_status catch_up_all(fastopt_tensor *tensors, ptrdiff_t count, void *num_threads)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    const fastopt_status status = fastopt_check(tensors, count);
    if (status != FASTOPT_OK)
        return status;
    fastopt_job job = {.kernels = kernels, .tensors = tensors, .count = count};
    fastopt_begin_passes(&job, ELEMENTS, *(int *)num_threads);
    fastopt_make_pass(&job, ELEMENTS, catch_up);
    fastopt_note_steps(&job, -1);
    return FASTOPT_OK;
}

static fastopt_status average_all(fastopt_tensor *tensors, ptrdiff_t count, void *num_threads)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    if (!kernels)
        return FASTOPT_BAD_ISA;
    const fastopt_status status = fastopt_check_averages(tensors, count);
    if (status != FASTOPT_OK)
        return status;
    fastopt_job job = {.kernels = kernels, .tensors = tensors, .count = count};
    fastopt_begin_passes(&job, ELEMENTS_AT_REST, *(int *)num_threads);
    fastopt_make_pass(&job, ELEMENTS_AT_REST, average);
    fastopt_note_rounds(tensors, count);
    return FASTOPT_OK;
}

/* ---- The calls of the header ---- */

static inline int are_own(fastopt_sizes sizes)
{
    const fastopt_sizes own = fastopt_header_sizes();
    return !memcmp(&sizes, &own, sizeof own);
}

static inline fastopt_status run(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count,
                                 fastopt_operation *operation, void *argument)
{
    return are_own(sizes) ? operation(tensors, count, argument)
                          : fastopt_on_copies(sizes, tensors, count, operation, argument);
}

fastopt_status fastopt_step_with_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count,
                                       fastopt_call *call)
{
    fastopt_call own;
    if (are_own(sizes))
        return step_all(tensors, count, call);
    if (!fastopt_read_struct(&own, sizeof own, call, sizes.call))
        return FASTOPT_BAD_ABI;
    const fastopt_status status = fastopt_on_copies(sizes, tensors, count, step_all, &own);
    fastopt_write_struct(call, sizes.call, &own, sizeof own);
    return status;
}

fastopt_status fastopt_step_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    fastopt_call call = {.num_threads = num_threads};
    return run(sizes, tensors, count, step_all, &call);
}

fastopt_status fastopt_catch_up_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    return run(sizes, tensors, count, catch_up_all, &num_threads);
}

fastopt_status fastopt_average_sized(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count, int num_threads)
{
    return run(sizes, tensors, count, average_all, &num_threads);
}

const char *fastopt_status_text(fastopt_status status)
{
    static const char *const texts[] = {
        [FASTOPT_OK] = "no error",
        [FASTOPT_BAD_HYPER] = "a hyperparameter or option is out of range",
        [FASTOPT_BAD_TENSOR] = "a rule, buffer, shape or format is missing or does not fit, or step is below 1",
        [FASTOPT_NONFINITE] = "a gradient has NaN or infinity",
        [FASTOPT_NO_MEMORY] = "there is no memory for partial sums",
        [FASTOPT_BAD_ISA] = "FASTOPT_ISA names an instruction set that is not available here",
        [FASTOPT_BAD_ABI] = "the program was compiled with a header that this library does not support",
        [FASTOPT_NOT_SUMMED] = "the sums over the parts of a parameter have failed",
    };
    return (unsigned)status < sizeof texts / sizeof *texts ? texts[status] : "an unknown status";
}

int fastopt_finite(const fastopt_tensor *tensor)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    return !tensor->g || !kernels || kernels->by_dtype[tensor->dtype].finite(tensor, 0, tensor->n);
}
