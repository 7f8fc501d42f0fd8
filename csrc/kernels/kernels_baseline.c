/* The instruction set that the compiler targets by default: SSE2 on x86-64, NEON on aarch64. */
#include "kernels.h"

#define ISA baseline
#include "kernels.inl.h"
