/* The team: threads of the library, which help one caller at a time; see team.c. */
#ifndef FASTOPT_THREADS_H
#define FASTOPT_THREADS_H

enum { FASTOPT_MAX_THREADS = 256 };

/* Calls work(job, 0) on the calling thread, and work(job, i) on those threads i < `threads` of the team that come in
 * time. Returns when all calls that began have returned.  Each call must go on until no piece of the job is left to
 * begin, and returns the number of pieces that it did; a thread that comes later does not call. */
void fastopt_run(int threads, int (*work)(void *job, int thread), void *job);

/* Seconds on a monotonic clock. */
double fastopt_now(void);

#endif
