/* The formats as a library that test_formats.py calls: every load and store, for float and double.  Includes itself
 * once for each. */
#ifndef T
#include "../csrc/kernels/kernels.h"
#include "../csrc/storage/random.h"

int flushes; /* whether subnormals are flushed, as they are while kernels run */

uint64_t test_key(uint64_t seed, uint64_t parameter, uint64_t step)
{
    return fastopt_random_key(seed, parameter, step);
}

#define T        float
#define FN(name) name##_f32
#define ABS      fabsf
#include "formats.c"
#undef T
#undef FN
#undef ABS

#define T        double
#define FN(name) name##_f64
#define ABS      fabs
#include "formats.c"
#else

#include "../csrc/storage/narrow.h"
#include "../csrc/storage/bfloat16.h"
#include "../csrc/storage/half.h"
#include "../csrc/storage/split.h"
#include "../csrc/storage/master.h"
#include "../csrc/storage/codes.h"
#include "../csrc/storage/fill_random.h"

#define EXPORT(name)                                                                                                   \
    void FN(test_load_##name)(void *out, void *data, void *rest, ptrdiff_t offset, ptrdiff_t n)                        \
    {                                                                                                                  \
        const fastopt_buffer from = {.data = data, .rest = rest};                                                      \
        const uint64_t mode = flushes ? flush_begin() : 0;                                                             \
        FN(load_##name)(out, &from, offset, n);                                                                        \
        if (flushes)                                                                                                   \
            flush_end(mode);                                                                                           \
    }                                                                                                                  \
                                                                                                                       \
    void FN(test_store_##name)(const void *x, void *data, void *rest, ptrdiff_t offset, ptrdiff_t n,                   \
                               const uint32_t *random, int shift)                                                      \
    {                                                                                                                  \
        const fastopt_buffer to = {.data = data, .rest = rest};                                                        \
        const uint64_t mode = flushes ? flush_begin() : 0;                                                             \
        FN(store_##name)(x, &to, offset, n, random, shift);                                                            \
        if (flushes)                                                                                                   \
            flush_end(mode);                                                                                           \
    }
EXPORT(float16)
EXPORT(bfloat16)
EXPORT(split16)
EXPORT(split8)
EXPORT(master_float16)
EXPORT(master_bfloat16)
EXPORT(codes_signed)
EXPORT(codes_nonnegative)
#undef EXPORT

void FN(test_random)(uint32_t *out, uint64_t key, int stream, ptrdiff_t offset, ptrdiff_t n)
{
    FN(fill_random)(out, key, stream, offset, n);
}

#endif
