/* Linux: futexes.  Other systems with POSIX: conditions.  Windows: WaitOnAddress. */
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

void fastopt_make_bed(fastopt_bed *bed)
{
    bed->asleep = 0;
#ifdef FASTOPT_CONDITIONS
    pthread_mutex_init(&bed->mutex, NULL);
    pthread_cond_init(&bed->woken, NULL);
#endif
}

#ifdef FASTOPT_CONDITIONS
void fastopt_sleep(fastopt_bed *bed)
{
    pthread_mutex_lock(&bed->mutex);
    while (word_load(&bed->asleep))
        pthread_cond_wait(&bed->woken, &bed->mutex);
    pthread_mutex_unlock(&bed->mutex);
}

int fastopt_wake(fastopt_bed *bed)
{
    if (!word_load(&bed->asleep))
        return 0;
    pthread_mutex_lock(&bed->mutex);
    const int taken = word_exchange(&bed->asleep, 0) != 0;
    pthread_cond_signal(&bed->woken);
    pthread_mutex_unlock(&bed->mutex);
    return taken;
}
#else
void fastopt_sleep(fastopt_bed *bed)
{
    while (word_load(&bed->asleep)) {
#ifdef _WIN32
        LONG asleep = 1;
        WaitOnAddress(&bed->asleep, &asleep, sizeof asleep, INFINITE);
#else
        syscall(SYS_futex, &bed->asleep, FUTEX_WAIT_PRIVATE, 1, NULL, NULL, 0);
#endif
    }
}

int fastopt_wake(fastopt_bed *bed)
{
    if (!word_load(&bed->asleep) || !word_exchange(&bed->asleep, 0))
        return 0;
#ifdef _WIN32
    WakeByAddressSingle((void *)&bed->asleep);
#else
    syscall(SYS_futex, &bed->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
#endif
    return 1;
}
#endif

/* ---- Threads ---- */

/* A library that is closed takes their code away from threads that sleep in it: ours stays. */
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
    /* Signals of a fault in the thread itself, and of the profiler's clock. */
    static const int taken[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF};
    sigset_t refused, before;
    pthread_t thread;
    sigfillset(&refused);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        sigdelset(&refused, taken[i]);
    pthread_sigmask(SIG_SETMASK, &refused, &before);
    const int started = !pthread_create(&thread, NULL, begin, data);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
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
} beginning;

#ifdef FASTOPT_OPENMP
/* A region that never ends.  Its first thread would spin at the end until the others come: it sleeps instead. */
static void run_loops(const beginning *mine)
{
    omp_set_dynamic(0);
#pragma omp parallel num_threads(mine->count + 1)
    {
        if (omp_get_thread_num())
            mine->loop(mine->first + omp_get_thread_num() - 1);
        fastopt_bed bed;
        fastopt_make_bed(&bed);
        word_exchange(&bed.asleep, 1);
        fastopt_sleep(&bed);
    }
}
#else
static void run_loops(const beginning *mine)
{
    mine->loop(mine->first);
}
#endif

static THREAD_FUNCTION begin_thread(void *data)
{
    const beginning mine = *(beginning *)data;
    free(data);
    run_loops(&mine);
    return 0;
}

static void start_loops(int first, int count, void (*loop)(int index))
{
    beginning *data = malloc(sizeof *data);
    if (!data)
        return;
    *data = (beginning){first, count, loop};
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
