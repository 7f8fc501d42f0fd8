/* The team under stress: every piece of every job is done once, by threads that have left when the job returns.
 *
 *     stress_team CALLERS JOBS MOST_THREADS [SIGNALS [FORKS]]
 *
 * So many callers run so many jobs each, or more until one had help, on 1 to MOST_THREADS threads, while a signal comes
 * each millisecond (SIGNALS 1) and children are forked that run jobs of their own (FORKS: how many).  Prints how many
 * jobs had help; exits with the number of failures. */
#include "threads/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PIECES = 24, ALIVE = 0x600d, DEAD = 0xdead };

typedef struct {
    int alive, pieces;
    unsigned length; /* of pieces */
    volatile unsigned next;
    unsigned char done[PIECES];
    volatile int done_by_others;
} job;

static volatile int failures;
static volatile int signals;
static _Thread_local int of_team;

static void fail(const char *what)
{
    fprintf(stderr, "%s\n", what);
    __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
}

static int work(void *data, int thread)
{
    job *job = data;
    int done = 0;
    of_team = thread > 0;
    for (;;) {
        if (job->alive != ALIVE)
            fail("a thread inside a job that has ended");
        const unsigned i = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED);
        if (i >= (unsigned)job->pieces)
            return done;
        done++;
        job->done[i]++; /* by a plain addition, so that a race would show */
        for (volatile unsigned n = 0; n < i * job->length; n++)
            ;
        if (i == PIECES - 1 && job->length == 31)
            sched_yield();
        if (thread)
            __atomic_fetch_add(&job->done_by_others, 1, __ATOMIC_RELAXED);
    }
}

/* Returns whether others did some of it. */
static int run(int threads, int pieces, unsigned length)
{
    job *job = malloc(sizeof *job); /* freed, so that a sanitizer sees who comes late */
    memset(job, 0, sizeof *job);
    job->alive = ALIVE;
    job->pieces = pieces;
    job->length = length;
    fastopt_run(threads, work, job);
    for (int i = 0; i < pieces; i++)
        if (job->done[i] != 1)
            fail("a piece was not done once");
    const int helped = job->done_by_others > 0;
    job->alive = DEAD;
    free(job);
    return helped;
}

typedef struct {
    int jobs, most_threads, seed, helped;
} caller;

static void *run_jobs(void *data)
{
    caller *c = data;
    uint32_t random = (uint32_t)c->seed * 2654435761u + 1;
    /* On a busy machine help may take a while to come. */
    for (int i = 0; i < c->jobs || (!c->helped && i < 1000 * c->jobs); i++) {
        random = random * 1664525u + 1013904223u;
        const int threads = 1 + (int)((random >> 16) % (unsigned)c->most_threads);
        c->helped += run(threads, (int)((random >> 8) % (PIECES + 1)), random >> 27);
    }
    return NULL;
}

static void on_signal(int number)
{
    (void)number;
    if (of_team)
        _exit(99); /* it is for the program's own threads */
    __atomic_fetch_add(&signals, 1, __ATOMIC_RELAXED);
}

/* A child has a team of its own: given time, it helps. */
static int child(int most_threads)
{
    const double end = fastopt_now() + 60;
    int helped = 0;
    while (!helped && fastopt_now() < end)
        helped = run(most_threads, PIECES, 100);
    return failures || (most_threads > 1 && !helped);
}

int main(int argc, char **argv)
{
    const int callers = argc > 1 ? atoi(argv[1]) : 2, jobs = argc > 2 ? atoi(argv[2]) : 1000;
    const int most_threads = argc > 3 ? atoi(argv[3]) : 4, signalled = argc > 4 ? atoi(argv[4]) : 0;
    const int forks = argc > 5 ? atoi(argv[5]) : 0;
    if (signalled) {
        const struct itimerval each = {{0, 1000}, {0, 1000}};
        signal(SIGALRM, on_signal);
        setitimer(ITIMER_REAL, &each, NULL);
    }
    caller *all = calloc((size_t)callers, sizeof *all);
    pthread_t *ids = calloc((size_t)callers, sizeof *ids);
    if (!all || !ids)
        return 1;
    for (int i = 0; i < callers; i++) {
        all[i] = (caller){jobs, most_threads, i, 0};
        if (pthread_create(&ids[i], NULL, run_jobs, &all[i]))
            return 1;
    }
    for (int i = 0; i < forks; i++) {
        const pid_t pid = fork();
        if (!pid)
            _exit(child(most_threads));
        int status = 1;
        while (waitpid(pid, &status, 0) < 0)
            ;
        if (status)
            fail("a child failed");
    }
    int helped = 0;
    for (int i = 0; i < callers; i++) {
        pthread_join(ids[i], NULL);
        helped += all[i].helped;
    }
    free(all);
    free(ids);
    if (signalled && !signals)
        fail("no signal came");
    printf("%d of %d jobs with help, %d signals, %d failures\n", helped, callers * jobs, signals, failures);
    return failures > 100 ? 100 : failures;
}
