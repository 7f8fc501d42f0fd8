/* AVX-512 with 256-bit vectors.  With 512 bits, every access to an array that does not start at a cache line is split
 * in two, and NumPy's arrays rarely start there.  Before Zen 5, Adam on 1024 floats took 0.39 us at best and 1.0 us at
 * worst with 512 bits, 0.40 and 0.48 with 256.  clang has no attribute for the width: the CPU to tune for sets it.
 *
 * Loads and stores of formats, in which one of the arrays is scratch, have 512 bits where the compiler is gcc. */
#include "kernels.h"

#if FASTOPT_X86_TARGETS
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,tune=skylake-avx512"))),        \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=256")
#define WIDE_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"prefer-vector-width=512\")")
#define WIDE_END   _Pragma("GCC pop_options")
#endif

#define ISA avx512
#include "kernels.inl.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
