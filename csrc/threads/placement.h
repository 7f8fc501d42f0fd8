/* The CPU that a thread runs on, on systems that can query and set it.  The set of allowed CPUs stays the same. */
#ifndef FASTOPT_PLACEMENT_H
#define FASTOPT_PLACEMENT_H

/* The CPU of the calling thread, or -1. */
int fastopt_current_cpu(void);

/* The id of the calling thread. */
int fastopt_thread_id(void);

/* Moves the thread with this id away from a CPU to another of its allowed CPUs, if there is one.  Returns whether it
 * can be elsewhere now. */
int fastopt_move_away(int thread, int cpu);

/* Moves the thread with this id to the CPU of the caller, if allowed. */
void fastopt_move_here(int thread);

#endif
