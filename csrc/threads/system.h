/* Functions of the operating system for the team: threads, sleep, and a call in the child of a fork. */
#ifndef FASTOPT_SYSTEM_H
#define FASTOPT_SYSTEM_H

#include "atomic.h"

/* FASTOPT_NO_FUTEX makes Linux use condition variables, for tests. */
#if !defined(_WIN32) && (!defined(__linux__) || defined(FASTOPT_NO_FUTEX))
#define FASTOPT_CONDITIONS
#include <pthread.h>
#endif

/* The sleep of one thread: `asleep` is 1 from before it sleeps until it is woken. */
typedef struct {
    atomic_word asleep;
#ifdef FASTOPT_CONDITIONS
    pthread_mutex_t mutex;
    pthread_cond_t woken;
#endif
} fastopt_sleeper;

void fastopt_init_sleeper(fastopt_sleeper *sleeper);

/* A thread sets asleep, checks its condition once more, and then sleeps.  A thread that makes the condition true wakes
 * it afterwards.  So the first thread sees the condition or is woken.  fastopt_wake() returns whether a thread was
 * asleep. */
void fastopt_sleep(fastopt_sleeper *sleeper);
int fastopt_wake(fastopt_sleeper *sleeper);

/* Starts `count` threads that call loop(first), loop(first + 1), ..., which must not return.  Threads may fail to
 * start. They block the signals of the process, and their code stays loaded. */
void fastopt_start_threads(int first, int count, void (*loop)(int index));

/* Registers child() to be called first in every forked child. */
void fastopt_at_fork(void (*child)(void));

#endif
