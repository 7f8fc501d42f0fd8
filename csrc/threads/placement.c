/* Linux starts a thread on the CPU of its creator, and often wakes it there.  It takes milliseconds until it moves the
 * thread to another CPU.  Until then two threads take longer than one.  So the library moves threads itself. */
#ifdef __linux__
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sched.h>
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

int fastopt_move_away(int thread, int cpu)
{
    cpu_set_t allowed, others;
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(thread, sizeof allowed, &allowed))
        return 0;
    others = allowed;
    CPU_CLR(cpu, &others);
    if (!CPU_COUNT(&others) || sched_setaffinity(thread, sizeof others, &others))
        return 0;
    sched_setaffinity(thread, sizeof allowed, &allowed);
    return 1;
}

void fastopt_move_here(int thread)
{
    cpu_set_t allowed, here;
    const int cpu = sched_getcpu();
    if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(thread, sizeof allowed, &allowed) ||
        !CPU_ISSET(cpu, &allowed))
        return;
    CPU_ZERO(&here);
    CPU_SET(cpu, &here);
    if (!sched_setaffinity(thread, sizeof here, &here))
        sched_setaffinity(thread, sizeof allowed, &allowed);
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

int fastopt_move_away(int thread, int cpu)
{
    (void)thread;
    (void)cpu;
    return 0;
}

void fastopt_move_here(int thread)
{
    (void)thread;
}
#endif
