/* The stages around a rule, each a small loop over a block that stays in L1: load, maximize, decay, store. */
#ifndef FASTOPT_STAGES_H
#define FASTOPT_STAGES_H
enum { BLOCK = 1024, LOAD = 0, STORE = 1 };
#endif

typedef struct {
    int on_g, on_p; /* whether anything is to be done to g, to p */
    T sign, weight_decay, shrink;
} FN(stages);

static FN(stages) FN(stages_of)(const fastopt_options *options, double lr)
{
    if (!options)
        return (FN(stages)){0, 0, 1, 0, 1};
    return (FN(stages)){
        .on_g = options->maximize || options->weight_decay != 0,
        .on_p = options->decoupled_decay != 0,
        .sign = options->maximize ? -1 : 1,
        .weight_decay = (T)options->weight_decay,
        .shrink = (T)(1 - lr * options->decoupled_decay),
    };
}

/* maximize and L2 decay: g becomes sign * g + weight_decay * p.  Without decay p is not read: 0 * p is not 0 for an
 * infinite p. */
static void FN(stage_g)(T *out, const T *g, const T *p, const FN(stages) * stages, ptrdiff_t n)
{
    const T sign = stages->sign, weight_decay = stages->weight_decay;
    if (weight_decay == 0)
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] = sign * g[i];
    else
        for (ptrdiff_t i = 0; i < n; i++)
            out[i] = sign * g[i] + weight_decay * p[i];
}

/* Decoupled decay, before the rule. */
static void FN(stage_p)(T *p, const FN(stages) * stages, ptrdiff_t n)
{
    const T shrink = stages->shrink;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] *= shrink;
}

/* Elements at to at + n of a strided array, counted in the order of the layout, to or from a block.  memcpy, because
 * the array may be aligned to bytes only. */
static void FN(copy_strided)(T *block, char *array, const fastopt_layout *layout, const ptrdiff_t *stride, ptrdiff_t at,
                             ptrdiff_t n, int store)
{
    const int last = layout->ndim - 1;
    ptrdiff_t index[FASTOPT_MAX_NDIM];
    for (int d = last; d >= 0; d--) {
        index[d] = at % layout->shape[d];
        at /= layout->shape[d];
        array += index[d] * stride[d];
    }
    while (n > 0) {
        const ptrdiff_t left = layout->shape[last] - index[last], run = left < n ? left : n;
        if (store)
            for (ptrdiff_t i = 0; i < run; i++)
                memcpy(array + i * stride[last], &block[i], sizeof(T));
        else
            for (ptrdiff_t i = 0; i < run; i++)
                memcpy(&block[i], array + i * stride[last], sizeof(T));
        block += run;
        n -= run;
        array += run * stride[last];
        index[last] += run;
        for (int d = last; d > 0 && index[d] == layout->shape[d]; d--) {
            array += stride[d - 1] - index[d] * stride[d];
            index[d] = 0;
            index[d - 1]++;
        }
    }
}
