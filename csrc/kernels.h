/* What a kernel file provides: one table per instruction set.  System headers come in here, before the target pragmas
 * of the files that include this. */
#ifndef FASTOPT_KERNELS_H
#define FASTOPT_KERNELS_H

#include "exact.h"
#include "fastopt.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define FASTOPT_X86_TARGETS 1
#else
#define FASTOPT_X86_TARGETS 0
#endif

/* The functions of one dtype.  `scalars` fills tensor->engine.k_store for the step about to be made; `update` makes
 * the step for elements begin to end, on the memory of the caller; `finite` tells whether their gradient is; `traffic`
 * moves the same bytes without the rule. */
typedef struct {
    void (*scalars)(fastopt_tensor *tensor);
    void (*update)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end);
    int (*finite)(const fastopt_tensor *tensor, ptrdiff_t begin, ptrdiff_t end);
    void (*traffic)(void *p, const void *g, void *const *state, int n_state, ptrdiff_t begin, ptrdiff_t end);
} fastopt_typed_kernels;

typedef struct {
    const char *isa;
    fastopt_typed_kernels of[2]; /* by fastopt_dtype */
} fastopt_kernels;

extern const fastopt_kernels fastopt_kernels_baseline;
#if FASTOPT_X86_TARGETS
extern const fastopt_kernels fastopt_kernels_avx2;
extern const fastopt_kernels fastopt_kernels_avx512;
#endif

/* The table in use; NULL while FASTOPT_ISA names one that is not available. */
const fastopt_kernels *fastopt_active_kernels(void);

#endif
