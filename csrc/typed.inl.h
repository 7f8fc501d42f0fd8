/* The rules, the stages, and the way of a block through them, for one T.  Included twice by kernels.inl.h. */
#include "stages.h"
#include "traffic.h"

#define RULE_FILES
#include "rules.def"
#undef RULE_FILES

typedef void (*FN(scalars_of))(const double *h, int64_t t, double *carry, T *k);
typedef void (*FN(loop_of))(T *restrict p, const T *restrict g, T *const *restrict state, const T *restrict k,
                            ptrdiff_t n);

static void FN(scalars)(fastopt_tensor *tensor)
{
#define RULE(name, state, hyper, carry) FN(name##_scalars),
    static const FN(scalars_of) scalars[] = {
#include "rules.def"
    };
#undef RULE
    scalars[tensor->rule->index](tensor->hyper, tensor->step, tensor->carry, tensor->engine.K_STORE);
}

static void FN(update)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
#define RULE(name, state, hyper, carry) FN(name),
    static const FN(loop_of) loops[] = {
#include "rules.def"
    };
#undef RULE
    const FN(loop_of) loop = loops[tensor->rule->index];
    const T *k = tensor->engine.k;
    const FN(stages) stages = FN(stages_of)(tensor->options, tensor->hyper[0]);
    const fastopt_layout *layout = tensor->layout;
    const int direct = !layout && !stages.on_g && !stages.on_p;
    const ptrdiff_t block = direct ? end - begin : BLOCK;

    T p_block[BLOCK], g_block[BLOCK];
    for (ptrdiff_t at = begin; at < end; at += block) {
        const ptrdiff_t n = end - at < block ? end - at : block;
        T *p = layout ? p_block : (T *)tensor->p + at;
        const T *g = layout || stages.on_g ? g_block : (const T *)tensor->g + at;
        T *state[FASTOPT_MAX_STATE];
        for (int s = 0; tensor->rule->state[s]; s++)
            state[s] = (T *)tensor->state[s] + at;

        if (layout) {
            FN(copy_strided)(p_block, tensor->p, layout, layout->p_stride, at, n, LOAD);
            FN(copy_strided)(g_block, (char *)tensor->g, layout, layout->g_stride, at, n, LOAD);
        }
        if (stages.on_g)
            FN(stage_g)(g_block, layout ? g_block : (const T *)tensor->g + at, p, &stages, n);
        if (stages.on_p)
            FN(stage_p)(p, &stages, n);
        loop(p, g, state, k, n);
        if (layout)
            FN(copy_strided)(p_block, tensor->p, layout, layout->p_stride, at, n, STORE);
    }
}

static int FN(finite)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end)
{
    T g_block[BLOCK];
    for (ptrdiff_t at = begin; at < end; at += BLOCK) {
        const ptrdiff_t n = end - at < BLOCK ? end - at : BLOCK;
        const T *g = tensor->layout ? g_block : (const T *)tensor->g + at;
        if (tensor->layout)
            FN(copy_strided)(g_block, (char *)tensor->g, tensor->layout, tensor->layout->g_stride, at, n, LOAD);
        int bad = 0;
        for (ptrdiff_t i = 0; i < n; i++)
            bad |= !(ABS(g[i]) <= LARGEST);
        if (bad)
            return 0;
    }
    return 1;
}
