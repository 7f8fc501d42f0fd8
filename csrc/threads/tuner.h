/* Choice of the number of threads by measurement; see fastopt_tuner in fastopt.h. */
#ifndef FASTOPT_TUNER_H
#define FASTOPT_TUNER_H

#include "../include/fastopt.h"

/* The number of threads for the next step, at most limit.  After the step, fastopt_note_time() records its time. */
int fastopt_next_threads(fastopt_tuner *tuner, int limit);
void fastopt_note_time(fastopt_tuner *tuner, int threads, double seconds, ptrdiff_t elements);

#endif
