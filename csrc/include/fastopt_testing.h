/* For tests and benchmarks of fastopt itself. */
#ifndef FASTOPT_TESTING_H
#define FASTOPT_TESTING_H

#include "fastopt.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The instruction sets that this CPU can run, widest vectors last; NULL past the last one. */
const char *fastopt_isa_at(int index);

/* Makes all later steps use this instruction set.  Returns 0 if it is not available here. */
int fastopt_use_isa(const char *name);

/* Moves the bytes that a step of this contiguous tensor moves, with one addition per stream in place of the rule: this
 * takes the time of a step with free arithmetic.  It overwrites all buffers except g. */
fastopt_status fastopt_traffic(const fastopt_tensor *tensor, int num_threads);

#ifdef __cplusplus
}
#endif
#endif
