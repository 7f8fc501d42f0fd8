/* AVX-512 with 512-bit vectors, for CPUs that compute all 512 bits at once. */
#include "kernels.h"

#if FASTOPT_X86_TARGETS
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,prefer-vector-width=512")
#endif

#define ISA avx512wide
#include "kernels.inl.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
