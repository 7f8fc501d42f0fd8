#include "kernels.h"

#if FASTOPT_X86_TARGETS
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif

#define ISA avx2
#include "kernels.inl.h"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
