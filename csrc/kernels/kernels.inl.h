/* All kernels of one instruction set, ISA: every rule and stage for float, then for double. */
#ifndef ISA
#error "define ISA, the instruction set that these kernels are compiled for, before this is included"
#endif

#define FASTOPT_PASTE_(name, type, isa) name##_##type##_##isa
#define FASTOPT_PASTE(name, type, isa)  FASTOPT_PASTE_(name, type, isa)

/* As numpy.maximum and numpy.minimum: NaN if either argument is NaN. */
#define MAX(x, y) ((x) > (y) || (x) != (x) ? (x) : (y))
#define MIN(x, y) ((x) < (y) || (x) != (x) ? (x) : (y))
/* As numpy.sign: NaN for NaN. */
#define SIGN(x) ((x) != (x) ? (x) : (T)((x) > 0) - (T)((x) < 0))

/* Around functions that use the widest vectors. */
#ifndef WIDE_BEGIN
#define WIDE_BEGIN
#define WIDE_END
#endif

#define T        float
#define BITS     uint32_t
#define FN(name) FASTOPT_PASTE(name, f32, ISA)
#define K_STORE  k_store.f32
#define SQRT     sqrtf
#define LARGEST  FLT_MAX
#define SMALLEST FLT_MIN
#define EPSILON  FLT_EPSILON
#define ABS      fabsf
#include "typed.inl.h"
#undef T
#undef BITS
#undef FN
#undef K_STORE
#undef SQRT
#undef LARGEST
#undef SMALLEST
#undef EPSILON
#undef ABS

#define T        double
#define BITS     uint64_t
#define FN(name) FASTOPT_PASTE(name, f64, ISA)
#define K_STORE  k_store.f64
#define SQRT     sqrt
#define LARGEST  DBL_MAX
#define SMALLEST DBL_MIN
#define EPSILON  DBL_EPSILON
#define ABS      fabs
#include "typed.inl.h"

#define FASTOPT_TEXT_(x)    #x
#define FASTOPT_TEXT(x)     FASTOPT_TEXT_(x)
#define FASTOPT_TABLE_(isa) fastopt_kernels_##isa
#define FASTOPT_TABLE(isa)  FASTOPT_TABLE_(isa)

#define FASTOPT_TYPED(type)                                                                                            \
    {FASTOPT_PASTE(scalars, type, ISA),  FASTOPT_PASTE(update, type, ISA),   FASTOPT_PASTE(gather, type, ISA),         \
     FASTOPT_PASTE(combine, type, ISA),  FASTOPT_PASTE(catch_up, type, ISA), FASTOPT_PASTE(average, type, ISA),        \
     FASTOPT_PASTE(tile, type, ISA),     FASTOPT_PASTE(prepare, type, ISA),  FASTOPT_PASTE(norm, type, ISA),           \
     FASTOPT_PASTE(finite, type, ISA),   FASTOPT_PASTE(traffic, type, ISA),  FASTOPT_PASTE(move, type, ISA),           \
     FASTOPT_PASTE(load_all, type, ISA), FASTOPT_PASTE(store_all, type, ISA)}

const fastopt_kernels FASTOPT_TABLE(ISA) = {
    .isa = FASTOPT_TEXT(ISA),
    .by_dtype = {FASTOPT_TYPED(f32), FASTOPT_TYPED(f64)},
};
