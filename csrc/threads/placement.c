/* Linux starts a thread on the CPU of its creator, and often wakes it there.  It takes milliseconds until it moves the
 * thread to another CPU.  Until then two threads take longer than one.  So the library moves threads itself. */
#ifdef __linux__
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "placement.h"

#ifdef __linux__
int fastopt_current_cpu(void)
{
    return sched_getcpu();
}

int fastopt_thread_id(void)
{
    return (int)syscall(SYS_gettid);
}

/* Lets a thread run only on the allowed CPUs that are in a set, and then on all of them again.  Returns whether it can
 * be in the set now. */
static int move(fastopt_place *place, const cpu_set_t *set)
{
    cpu_set_t allowed, narrow;
    const int thread = (int)word_load(&place->id);
    if (!thread || word_exchange(&place->moving, 1))
        return 0;
    int moved = !sched_getaffinity(thread, sizeof allowed, &allowed);
    CPU_AND(&narrow, &allowed, set);
    moved = moved && CPU_COUNT(&narrow) && !sched_setaffinity(thread, sizeof narrow, &narrow);
    if (moved)
        sched_setaffinity(thread, sizeof allowed, &allowed);
    word_store(&place->moving, 0);
    return moved;
}

int fastopt_move_away(fastopt_place *place, int cpu)
{
    cpu_set_t others;
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return 0;
    memset(&others, 0xff, sizeof others);
    CPU_CLR(cpu, &others);
    return move(place, &others);
}

void fastopt_move_here(fastopt_place *place)
{
    cpu_set_t here;
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE)
        return;
    CPU_ZERO(&here);
    CPU_SET(cpu, &here);
    move(place, &here);
}
#else
int fastopt_current_cpu(void)
{
    return -1;
}

int fastopt_thread_id(void)
{
    return 0;
}

int fastopt_move_away(fastopt_place *place, int cpu)
{
    (void)place;
    (void)cpu;
    return 0;
}

void fastopt_move_here(fastopt_place *place)
{
    (void)place;
}
#endif
