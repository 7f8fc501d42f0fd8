/* The operating system as the team uses it: threads, sleep, and a call in the child of a fork. */
#ifndef FASTOPT_SYSTEM_H
#define FASTOPT_SYSTEM_H

#include "atomic.h"

/* FASTOPT_NO_FUTEX makes Linux do as other systems with POSIX do, for tests. */
#if !defined(_WIN32) && (!defined(__linux__) || defined(FASTOPT_NO_FUTEX))
#define FASTOPT_CONDITIONS
#include <pthread.h>
#endif

/* A place where one thread at a time sleeps. */
typedef struct {
    atomic_word asleep;
#ifdef FASTOPT_CONDITIONS
    pthread_mutex_t mutex;
    pthread_cond_t woken;
#endif
} fastopt_bed;

void fastopt_make_bed(fastopt_bed *bed);

/* A thread that is about to sleep sets asleep, then looks once more for what it waits for, then sleeps.  A thread that
 * brings this about wakes it afterwards.  So the first one sees it, or is woken.  fastopt_wake() returns whether the
 * bed was taken. */
void fastopt_sleep(fastopt_bed *bed);
int fastopt_wake(fastopt_bed *bed);

/* Starts threads that call loop(first), loop(first + 1), ..., which must not return.  Some or all may fail to start.
 * They take no signals from the process, and their code stays loaded. */
void fastopt_start_threads(int first, int count, void (*loop)(int index));

/* Has every child of a fork begin with a call of child(). */
void fastopt_at_fork(void (*child)(void));

#endif
