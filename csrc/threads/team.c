/* The team helps one caller at a time.
 *
 * Its threads are the system's own.  Threads of OpenMP would count as those of everybody's region: where there are more
 * than CPUs, GCC's runtime has all idle ones sleep at once, and regions of the program around us, such as torch's, took
 * 5 times as long.  A build with FASTOPT_OPENMP has OpenMP make them all the same, for programs that know of no others.
 *
 * A caller opens a job, wakes the threads it wants, works itself until nothing is left to begin, closes the job, and
 * waits for the threads inside.  A thread that wakes enters the job if it is still open, works, and leaves.  If it
 * comes late, because the system had its CPU do something else, it stays outside, and nobody has waited for it.
 * Entering and closing are changes of one word, so that no thread sees anything of a job that has ended.
 *
 * Nothing depends on a wake-up: a caller whose threads never come does all the work.  So a forked child, which has none
 * of its parent's threads, or a process that cannot start any, is never stuck.
 *
 * tests/support/team_model.py explores every order in which two threads and a caller can make these changes. */
#include "placement.h"
#include "system.h"
#include "threads.h"

enum { LINE = 128 }; /* bytes that no two words of different threads share, so that neither slows the other's */

static const double BRIEFLY = 5e-6, LONGER = 60e-6, SOON = 100e-6; /* seconds */

/* The state of the team, one word: the threads inside, how many the job wants with the caller, whether it is open,
 * whether the caller sleeps until all have left, and the job's number, which may wrap round: a thread that takes a new
 * job for the one it has just left misses it. */
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
} lone_word;

/* A thread of the team. */
typedef union {
    struct {
        fastopt_bed bed;
        atomic_word inside; /* its number in the system and one, while it is inside a job; else 0 */
    };
    char line[LINE];
} member;

static struct {
    /* The data that a thread reads before it begins, in one line of the caches. */
    union {
        struct {
            atomic_word state;
            atomic_word cpu; /* of the caller, plus one; 0: unknown */
            int (*work)(void *job, int thread);
            void *job;
        };
        char line[LINE];
    };
    lone_word busy; /* whether a caller has the team */
    lone_word next; /* to be woken by the threads that are awake */
    int started;    /* threads, or attempts at starting them */
    member caller;
    member members[FASTOPT_MAX_THREADS];
} team;

/* ---- A thread of the team ---- */

static int calls(uint32_t state, int thread, uint32_t last)
{
    return (state & OPEN) && state / ONE_JOB != last / ONE_JOB && thread < wanted(state);
}

/* Waits for a job other than the last one, awake for some time and then asleep. */
static uint32_t await_job(int thread, uint32_t last, double patience)
{
    fastopt_bed *bed = &team.members[thread].bed;
    const double end = fastopt_now() + patience;
    uint32_t state;
    do
        for (int i = 0; i < 16; i++) {
            state = word_load(&team.state);
            if (calls(state, thread, last))
                return state;
            pause_briefly();
        }
    while (fastopt_now() < end);
    for (;;) {
        word_exchange(&bed->asleep, 1);
        state = word_load(&team.state);
        if (calls(state, thread, last)) {
            word_exchange(&bed->asleep, 0);
            return state;
        }
        fastopt_sleep(bed);
    }
}

/* Enters the job that calls, unless it closes before; returns whether it has. */
static int enter(int thread, uint32_t *state, uint32_t last)
{
    while (calls(*state, thread, last)) {
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
        fastopt_wake(&team.caller.bed);
}

/* Each thread that is awake wakes two others. */
static void wake_next(int threads)
{
    for (int woken = 0; woken < 2;) {
        const uint32_t next = word_add(&team.next.word, 1);
        if (next >= (uint32_t)threads)
            break;
        woken += fastopt_wake(&team.members[next].bed);
    }
}

/* Linux wakes a thread on the CPU of the one that woke it if that seems best, where it waits for the caller. */
static int has_own_cpu(void)
{
    const int cpu = (int)word_load(&team.cpu) - 1;
    return cpu < 0 || fastopt_cpu() != cpu || fastopt_leave_cpu(cpu);
}

static void help(int thread)
{
    const int number = fastopt_this_thread();
    uint32_t last = 0;
    double patience = BRIEFLY;
    for (;;) {
        const double idle_since = fastopt_now();
        uint32_t state = await_job(thread, last, patience);
        /* Callers that make one step after the other find the thread awake. */
        patience = fastopt_now() - idle_since < SOON ? LONGER : BRIEFLY;
        if (has_own_cpu() && enter(thread, &state, last)) {
            if (wanted(state) > 3)
                wake_next(wanted(state));
            word_store(&team.members[thread].inside, (uint32_t)number + 1);
            team.work(team.job, thread);
            word_store(&team.members[thread].inside, 0);
            leave();
        }
        last = state;
    }
}

/* ---- A caller ---- */

/* A child has none of its parent's threads, and perhaps the team of a caller that it has not either. */
static void forget_team(void)
{
    for (int i = 0; i <= team.started && i < FASTOPT_MAX_THREADS; i++)
        word_exchange(&team.members[i].bed.asleep, 0);
    team.started = 0;
    word_exchange(&team.state, 0);
    word_store(&team.busy.word, 0);
}

static void start_until(int threads)
{
    static int watches_forks;
    if (!watches_forks)
        fastopt_at_fork(forget_team);
    watches_forks = 1;
    fastopt_make_bed(&team.caller.bed);
    const int first = team.started + 1;
    for (int i = first; i < threads; i++)
        fastopt_make_bed(&team.members[i].bed);
    team.started = threads - 1;
    fastopt_start_threads(first, threads - first, help);
}

/* Waits until all threads have left: awake for so many seconds, which is longer than a piece of work takes.  Whoever is
 * inside then has lost its CPU to another thread, and may have to wait for it as long as the system gives that one.
 * It can have this CPU: the caller brings it here and sleeps. */
static void await_leaving(int threads, double patience)
{
    const double end = fastopt_now() + patience;
    uint32_t state;
    do
        for (int i = 0; i < 16; i++) {
            if (!(word_load(&team.state) & INSIDE))
                return;
            pause_briefly();
        }
    while (fastopt_now() < end);
    for (int i = 1; i < threads; i++) {
        const uint32_t inside = word_load(&team.members[i].inside);
        if (inside)
            fastopt_bring((int)inside - 1);
    }
    while ((state = word_load(&team.state)) & INSIDE) {
        word_exchange(&team.caller.bed.asleep, 1);
        if (word_replace(&team.state, state, state | AWAITED))
            fastopt_sleep(&team.caller.bed);
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
        start_until(threads);
    team.work = work;
    team.job = job;
    word_store(&team.cpu, (uint32_t)(fastopt_cpu() + 1));
    word_store(&team.next.word, 3);
    const uint32_t number = word_load(&team.state) / ONE_JOB + 1;
    word_exchange(&team.state, number * ONE_JOB + OPEN + (uint32_t)threads * ONE_WANTED);
    for (int i = 1; i < threads && i < 3; i++)
        fastopt_wake(&team.members[i].bed);
    const double begin = fastopt_now();
    const int pieces = work(job, 0);
    if (word_and(&team.state, ~OPEN) & INSIDE) {
        const double piece = (fastopt_now() - begin) / (pieces ? pieces : 1);
        await_leaving(threads, 4 * (piece > BRIEFLY ? piece : BRIEFLY));
    }
    word_store(&team.busy.word, 0);
}
