/* Which CPU a thread runs on, where the system tells and lets it be changed. */
#ifndef FASTOPT_PLACEMENT_H
#define FASTOPT_PLACEMENT_H

/* The CPU of the calling thread, or -1. */
int fastopt_cpu(void);

/* Moves the calling thread to another of the CPUs it may use, if there is one; afterwards it may use the same ones as
 * before.  Returns whether it has moved. */
int fastopt_leave_cpu(int cpu);

/* The calling thread, for fastopt_bring(), which moves a thread to this CPU if it may use it. */
int fastopt_this_thread(void);
void fastopt_bring(int thread);

#endif
