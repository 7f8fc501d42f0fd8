/* The CPU that a thread runs on, on systems that can query and set it. */
#ifndef FASTOPT_PLACEMENT_H
#define FASTOPT_PLACEMENT_H

/* The CPU of the calling thread, or -1. */
int fastopt_current_cpu(void);

/* Moves the calling thread to another of its allowed CPUs, if there is one; the set of allowed CPUs stays the same.
 * Returns whether it has moved. */
int fastopt_leave_cpu(int cpu);

/* The id of the calling thread; fastopt_move_here() moves the thread with this id to the CPU of the caller, if allowed.
 */
int fastopt_thread_id(void);
void fastopt_move_here(int thread);

#endif
