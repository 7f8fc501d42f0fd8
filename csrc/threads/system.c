/* Sleep and wake-up by futexes on Linux, condition variables on other POSIX systems, WaitOnAddress on Windows. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "system.h"
#include "threads.h"

#include "../include/fastopt.h"

#include <stdlib.h>

#ifdef FASTOPT_OPENMP
#include <omp.h>
#endif

#ifdef _WIN32
#include <windows.h>
#include <process.h>
#ifdef _MSC_VER
#pragma comment(lib, "synchronization.lib")
#endif
#else
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#endif

/* ---- Sleep ---- */

void fastopt_init_sleeper(fastopt_sleeper *sleeper)
{
    sleeper->asleep = 0;
#ifdef FASTOPT_CONDITIONS
    pthread_mutex_init(&sleeper->mutex, NULL);
    pthread_cond_init(&sleeper->woken, NULL);
#endif
}

#ifdef FASTOPT_CONDITIONS
void fastopt_sleep(fastopt_sleeper *sleeper)
{
    pthread_mutex_lock(&sleeper->mutex);
    while (word_load(&sleeper->asleep))
        pthread_cond_wait(&sleeper->woken, &sleeper->mutex);
    pthread_mutex_unlock(&sleeper->mutex);
}

int fastopt_wake(fastopt_sleeper *sleeper)
{
    if (!word_load(&sleeper->asleep))
        return 0;
    pthread_mutex_lock(&sleeper->mutex);
    const int slept = word_exchange(&sleeper->asleep, 0) != 0;
    pthread_cond_signal(&sleeper->woken);
    pthread_mutex_unlock(&sleeper->mutex);
    return slept;
}
#else
void fastopt_sleep(fastopt_sleeper *sleeper)
{
    while (word_load(&sleeper->asleep)) {
#ifdef _WIN32
        LONG asleep = 1;
        WaitOnAddress(&sleeper->asleep, &asleep, sizeof asleep, INFINITE);
#else
        syscall(SYS_futex, &sleeper->asleep, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
#endif
    }
}

int fastopt_wake(fastopt_sleeper *sleeper)
{
    if (!word_load(&sleeper->asleep) || !word_exchange(&sleeper->asleep, 0))
        return 0;
#ifdef _WIN32
    WakeByAddressSingle((void *)&sleeper->asleep);
#else
    syscall(SYS_futex, &sleeper->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
#endif
    return 1;
}
#endif

/* ---- Threads ---- */

/* Closing a library unmaps its code, in which its threads may sleep: this one stays loaded. */
#ifdef _WIN32
#define THREAD_FUNCTION unsigned __stdcall

static void stay_loaded(void)
{
    HMODULE module;
    GetModuleHandleExA(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_PIN, (LPCSTR)stay_loaded,
                       &module);
}

static int start_thread(THREAD_FUNCTION begin(void *), void *data)
{
    const uintptr_t thread = _beginthreadex(NULL, 0, begin, data, 0, NULL);
    if (thread)
        CloseHandle((HANDLE)thread);
    return thread != 0;
}

void fastopt_at_fork(void (*child)(void))
{
    (void)child;
}

double fastopt_now(void)
{
    LARGE_INTEGER count, frequency;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&frequency);
    return (double)count.QuadPart / (double)frequency.QuadPart;
}
#else
#define THREAD_FUNCTION void *

static void stay_loaded(void)
{
    Dl_info info;
    if (dladdr(__extension__(void *) stay_loaded, &info) && info.dli_fname)
        dlopen(info.dli_fname, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
}

static int start_thread(THREAD_FUNCTION begin(void *), void *data)
{
    /* The thread blocks all signals except faults of its own and the profiler's timer. */
    static const int accepted[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
    sigset_t blocked, previous;
    pthread_t thread;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++)
        sigdelset(&blocked, accepted[i]);
    pthread_sigmask(SIG_SETMASK, &blocked, &previous);
    const int started = !pthread_create(&thread, NULL, begin, data);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (started)
        pthread_detach(thread);
    return started;
}

void fastopt_at_fork(void (*child)(void))
{
    pthread_atfork(NULL, NULL, child);
}

double fastopt_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
#endif

typedef struct {
    int first, count;
    void (*loop)(int index);
} thread_start;

#ifdef FASTOPT_OPENMP
/* A region that never ends.  Its first thread would spin at the end to wait for the others, so it sleeps instead. */
static void run_loops(const thread_start *start)
{
    omp_set_dynamic(0);
#pragma omp parallel num_threads(start->count + 1)
    {
        if (omp_get_thread_num())
            start->loop(start->first + omp_get_thread_num() - 1);
        fastopt_sleeper sleeper;
        fastopt_init_sleeper(&sleeper);
        word_exchange(&sleeper.asleep, 1);
        fastopt_sleep(&sleeper);
    }
}
#else
static void run_loops(const thread_start *start)
{
    start->loop(start->first);
}
#endif

static THREAD_FUNCTION begin_thread(void *data)
{
    const thread_start start = *(thread_start *)data;
    free(data);
    run_loops(&start);
    return 0;
}

static void start_loops(int first, int count, void (*loop)(int index))
{
    thread_start *data = malloc(sizeof *data);
    if (!data)
        return;
    *data = (thread_start){first, count, loop};
    if (!start_thread(begin_thread, data))
        free(data);
}

void fastopt_start_threads(int first, int count, void (*loop)(int index))
{
    stay_loaded();
#ifdef FASTOPT_OPENMP
    start_loops(first, count, loop);
#else
    for (int i = 0; i < count; i++)
        start_loops(first + i, 1, loop);
#endif
}

int fastopt_openmp(void)
{
#ifdef FASTOPT_OPENMP
    return _OPENMP;
#else
    return 0;
#endif
}
