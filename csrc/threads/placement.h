/* The CPU that a thread runs on, on systems that can query and set it.  The set of allowed CPUs stays the same. */
#ifndef FASTOPT_PLACEMENT_H
#define FASTOPT_PLACEMENT_H

#include "atomic.h"

/* The CPU of the calling thread, or -1. */
int fastopt_current_cpu(void);

/* The id of the calling thread. */
int fastopt_thread_id(void);

/* A thread that can be moved.  During a move it is allowed on fewer CPUs, and a second move would take these for its
 * own: so nothing happens if another thread is moving it. */
typedef struct {
    atomic_word id;     /* in the system; 0 before it starts */
    atomic_word moving; /* whether a thread is moving it */
} fastopt_place;

/* Moves a thread away from a CPU to another of its allowed CPUs, if there is one.  Returns whether it can be elsewhere
 * now. */
int fastopt_move_away(fastopt_place *place, int cpu);

/* Moves a thread to the CPU of the caller, if allowed. */
void fastopt_move_here(fastopt_place *place);

#endif
