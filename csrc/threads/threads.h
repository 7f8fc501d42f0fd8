/* The team: threads of the library's own, which help a caller with one job at a time; see team.c. */
#ifndef FASTOPT_THREADS_H
#define FASTOPT_THREADS_H

enum { FASTOPT_MAX_THREADS = 256 };

/* Calls work(job, 0) here, and work(job, i) on thread i of the team for each i below `threads` that comes in time.
 * Returns when all calls that have begun have returned.  Each call must go on until no piece of the job is left to
 * begin, and returns how many it has done: a thread that comes later than that does not call. */
void fastopt_run(int threads, int (*work)(void *job, int thread), void *job);

/* Seconds on a clock that never goes back. */
double fastopt_now(void);

#endif
