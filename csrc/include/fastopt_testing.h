/* For tests and benchmarks of fastopt itself. */
#ifndef FASTOPT_TESTING_H
#define FASTOPT_TESTING_H

#include "fastopt.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The instruction sets that this CPU can run, slowest first; NULL past the last. */
const char *fastopt_isa_at(int index);

/* Has all later steps run this instruction set.  0: it is not available here. */
int fastopt_use_isa(const char *name);

/* Moves the bytes that a step of this contiguous tensor would move, with one addition per stream instead of the rule:
 * this takes the time of a step whose arithmetic is free.  It overwrites all buffers but g. */
fastopt_status fastopt_traffic(const fastopt_tensor *tensor, int num_threads);

#ifdef __cplusplus
}
#endif
#endif
