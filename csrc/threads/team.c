/* The team helps one caller at a time.
 *
 * Its threads are threads of the operating system, not of OpenMP.  OpenMP counts the threads of all regions of a
 * process.  If there are more of them than CPUs, GCC's runtime lets all idle threads sleep at once: regions of other
 * libraries, such as torch, then took 5 times as long.  A build with FASTOPT_OPENMP still uses OpenMP, for programs
 * without other threads of OpenMP.
 *
 * A caller opens a job, wakes the threads that it wants, works until no piece is left to begin, closes the job, and
 * waits for the threads that are inside it.  A thread that wakes enters the job if it is still open, works, and leaves.
 * If a thread comes late, because the system used its CPU for another thread, it does not enter, and the caller does
 * not wait for it.  Entering and closing change the same word, so that no thread works on a job that has ended.
 *
 * No result depends on a wake-up: if no thread comes, the caller does all the work.  So a forked child, which has none
 * of its parent's threads, and a process that cannot start threads never hang.
 *
 * tests/support/team_model.py explores all orders of these operations for a caller and two threads. */
#include "placement.h"
#include "system.h"
#include "threads.h"

#include <math.h>

enum { LINE = 128 }; /* bytes between words of different threads, which would slow each other in one cache line */

/* Seconds: how long a thread stays awake after a job, normally and if that job came within SOON; how long a thread that
 * was woken may take to come. */
static const double BRIEFLY = 5e-6, LONGER = 60e-6, SOON = 100e-6, LATE = 50e-6;

/* The state of the team in one word: the number of threads inside; the number of threads wanted, with the caller;
 * whether the job is open; whether the caller sleeps until all have left; and the number of the job, which may wrap
 * around: a thread that takes a new job for its last one only misses it. */
#define INSIDE     UINT32_C(0x1ff)
#define ONE_INSIDE UINT32_C(0x1)
#define ONE_WANTED UINT32_C(0x200)
#define OPEN       UINT32_C(0x40000)
#define AWAITED    UINT32_C(0x80000)
#define ONE_JOB    UINT32_C(0x100000)

static int wanted(uint32_t state)
{
    return (int)((state & (OPEN - ONE_WANTED)) / ONE_WANTED);
}

typedef union {
    atomic_word word;
    char line[LINE];
} padded_word;

/* A thread of the team. */
typedef union {
    struct {
        fastopt_sleeper sleeper;
        fastopt_place place;
        atomic_word inside; /* whether it is inside a job */
        atomic_word last;   /* the state when it last came to a job, in time or not */
    };
    char line[LINE];
} member;

static struct {
    /* The data that a thread reads before it begins, in one cache line. */
    union {
        struct {
            atomic_word state;
            atomic_word cpu; /* the CPU of the caller plus one; 0: unknown */
            int (*work)(void *job, int thread);
            void *job;
        };
        char line[LINE];
    };
    padded_word busy; /* whether a caller uses the team */
    padded_word next; /* the next thread that a thread of the team wakes */
    int started;      /* threads started, or tried to start */
    int watched;      /* the thread that callers watch: whether it comes when it is awake */
    uint32_t last;    /* its last job when they began to */
    double since;     /* the time then */
    member caller;
    member members[FASTOPT_MAX_THREADS];
} team;

/* ---- A thread of the team ---- */

static int wants(uint32_t state, int thread, uint32_t last)
{
    return (state & OPEN) && state / ONE_JOB != last / ONE_JOB && thread < wanted(state);
}

/* Waits for a job other than the last one: awake for `patience` seconds, then asleep. */
static uint32_t await_job(int thread, uint32_t last, double patience)
{
    fastopt_sleeper *sleeper = &team.members[thread].sleeper;
    const double end = fastopt_now() + patience;
    uint32_t state;
    do
        for (int i = 0; i < 16; i++) {
            state = word_load(&team.state);
            if (wants(state, thread, last))
                return state;
            spin_pause();
        }
    while (fastopt_now() < end);
    for (;;) {
        word_exchange(&sleeper->asleep, 1);
        state = word_load(&team.state);
        if (wants(state, thread, last)) {
            word_exchange(&sleeper->asleep, 0);
            return state;
        }
        fastopt_sleep(sleeper);
    }
}

/* Enters the open job; returns 0 if it closed before. */
static int enter(int thread, uint32_t *state, uint32_t last)
{
    while (wants(*state, thread, last)) {
        if (word_replace(&team.state, *state, *state + ONE_INSIDE))
            return 1;
        *state = word_load(&team.state);
    }
    return 0;
}

static void leave(void)
{
    const uint32_t state = word_add(&team.state, -ONE_INSIDE);
    if ((state & INSIDE) == ONE_INSIDE && (state & AWAITED))
        fastopt_wake(&team.caller.sleeper);
}

/* Each thread that has entered wakes two others. */
static void wake_next(int threads)
{
    for (int woken = 0; woken < 2;) {
        const uint32_t next = word_add(&team.next.word, 1);
        if (next >= (uint32_t)threads)
            break;
        woken += fastopt_wake(&team.members[next].sleeper);
    }
}

/* Linux may wake a thread on the CPU of the caller, where it would wait for the caller: then it moves away. */
static int has_own_cpu(member *self)
{
    const int cpu = (int)word_load(&team.cpu) - 1;
    return cpu < 0 || fastopt_current_cpu() != cpu || fastopt_move_away(&self->place, cpu);
}

static void serve(int thread)
{
    member *self = &team.members[thread];
    uint32_t last = 0;
    double patience = BRIEFLY;
    word_store(&self->place.id, (uint32_t)fastopt_thread_id());
    for (;;) {
        const double idle_since = fastopt_now();
        uint32_t state = await_job(thread, last, patience);
        /* A caller that makes steps back to back finds the thread awake. */
        patience = fastopt_now() - idle_since < SOON ? LONGER : BRIEFLY;
        word_store(&self->last, state);
        if (has_own_cpu(self) && enter(thread, &state, last)) {
            if (wanted(state) > 3)
                wake_next(wanted(state));
            word_store(&self->inside, 1);
            team.work(team.job, thread);
            word_store(&self->inside, 0);
            leave();
        }
        last = state;
    }
}

/* ---- A caller ---- */

/* A forked child has none of its parent's threads; the team may be in use by one of them. */
static void reset_after_fork(void)
{
    for (int i = 0; i <= team.started && i < FASTOPT_MAX_THREADS; i++) {
        word_exchange(&team.members[i].sleeper.asleep, 0);
        word_store(&team.members[i].place.id, 0);
        word_store(&team.members[i].place.moving, 0);
    }
    team.started = team.watched = 0;
    word_exchange(&team.state, 0);
    word_store(&team.busy.word, 0);
}

static void start_up_to(int threads)
{
    static int watches_forks;
    if (!watches_forks)
        fastopt_at_fork(reset_after_fork);
    watches_forks = 1;
    fastopt_init_sleeper(&team.caller.sleeper);
    const int first = team.started + 1;
    for (int i = first; i < threads; i++)
        fastopt_init_sleeper(&team.members[i].sleeper);
    team.started = threads - 1;
    fastopt_start_threads(first, threads - first, serve);
}

/* Waits until all threads have left: first awake, for `patience` seconds, longer than a piece of work takes.  A thread
 * that is still inside has lost its CPU to another thread, perhaps for a whole time slice.  The caller moves it to its
 * own CPU and sleeps. */
static void await_leaving(int threads, double patience)
{
    const double end = fastopt_now() + patience;
    uint32_t state;
    do
        for (int i = 0; i < 16; i++) {
            if (!(word_load(&team.state) & INSIDE))
                return;
            spin_pause();
        }
    while (fastopt_now() < end);
    for (int i = 1; i < threads; i++)
        if (word_load(&team.members[i].inside))
            fastopt_move_here(&team.members[i].place);
    while ((state = word_load(&team.state)) & INSIDE) {
        word_exchange(&team.caller.sleeper.asleep, 1);
        if (word_replace(&team.state, state, state | AWAITED))
            fastopt_sleep(&team.caller.sleeper);
    }
}

/* A thread that was woken on the caller's CPU waits there for up to a time slice, while the caller makes step after
 * step alone.  So callers watch one thread after the other: if it does not come though it is awake, it is moved. */
static void watch(int threads, double now)
{
    member *thread = &team.members[team.watched];
    if (!team.watched || team.watched >= threads || word_load(&thread->last) != team.last ||
        word_load(&thread->sleeper.asleep)) {
        team.watched = team.watched % (threads - 1) + 1;
        team.last = word_load(&team.members[team.watched].last);
        team.since = now;
    } else if (now - team.since > LATE) {
        fastopt_move_away(&thread->place, fastopt_current_cpu());
        team.since = HUGE_VAL; /* once, until it comes */
    }
}

void fastopt_run(int threads, int (*work)(void *job, int thread), void *job)
{
    if (threads > FASTOPT_MAX_THREADS)
        threads = FASTOPT_MAX_THREADS;
    if (threads < 2 || word_load(&team.busy.word) || word_exchange(&team.busy.word, 1)) {
        work(job, 0);
        return;
    }
    if (team.started < threads - 1)
        start_up_to(threads);
    team.work = work;
    team.job = job;
    word_store(&team.cpu, (uint32_t)(fastopt_current_cpu() + 1));
    word_store(&team.next.word, 3);
    const uint32_t number = word_load(&team.state) / ONE_JOB + 1;
    word_exchange(&team.state, number * ONE_JOB + OPEN + (uint32_t)threads * ONE_WANTED);
    const double begin = fastopt_now();
    watch(threads, begin);
    for (int i = 1; i < threads && i < 3; i++)
        fastopt_wake(&team.members[i].sleeper);
    const int pieces = work(job, 0);
    if (word_and(&team.state, ~OPEN) & INSIDE) {
        const double piece = (fastopt_now() - begin) / (pieces ? pieces : 1);
        await_leaving(threads, 4 * (piece > BRIEFLY ? piece : BRIEFLY));
    }
    word_store(&team.busy.word, 0);
}
