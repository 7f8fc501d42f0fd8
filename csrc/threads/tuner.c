/* Choosing the number of threads by measuring.
 *
 * The choice is used for most steps.  Now and then half or twice as many threads are tried for up to four steps in a
 * row, and take over when they are clearly faster than the choice has been of late.  A trial ends with its first slow
 * step, but for the one that pays for waking more threads.  Trials that change nothing become rare; a choice that has
 * become slow is put to trial at once. */
#include "tuner.h"

enum {
    RECENT = sizeof(((fastopt_tuner *)0)->recent) / sizeof(double),
    TRIAL = sizeof(((fastopt_tuner *)0)->tried) / sizeof(double),
    FIRST_PERIOD = 8,
    LAST_PERIOD = 512,
};

/* The median: one step that the system interrupted, or that touches memory for the first time, says little. */
static double typical(const double *times, int n)
{
    double sorted[RECENT] = {0};
    for (int i = 0; i < n; i++) {
        int at = i;
        for (; at > 0 && sorted[at - 1] > times[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = times[i];
    }
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

static double typical_recent(const fastopt_tuner *tuner)
{
    return typical(tuner->recent, tuner->n_recent < RECENT ? tuner->n_recent : RECENT);
}

static void choose(fastopt_tuner *tuner, int threads, int period)
{
    tuner->threads = threads;
    tuner->trial = 0;
    tuner->n_recent = 0;
    tuner->quiet = tuner->period = period;
    tuner->chosen_at = 0;
}

int fastopt_next_threads(fastopt_tuner *tuner, int limit)
{
    if (tuner->threads == 0)
        choose(tuner, limit, FIRST_PERIOD);
    if (tuner->trial == 0 && tuner->quiet <= 0) {
        tuner->up = tuner->threads == 1 || (!tuner->up && tuner->threads < limit);
        tuner->trial = tuner->up ? 2 * tuner->threads : tuner->threads / 2;
        tuner->n_trial = 0;
    }
    const int threads = tuner->trial ? tuner->trial : tuner->threads;
    return threads < limit ? threads : limit;
}

void fastopt_note_time(fastopt_tuner *tuner, int threads, double time)
{
    if (tuner->trial == 0) {
        if (threads != tuner->threads)
            return; /* a shorter step than most: it says nothing of them */
        tuner->recent[tuner->n_recent++ % RECENT] = time;
        tuner->quiet--;
        const double now = typical_recent(tuner);
        if (tuner->n_recent == RECENT) {
            tuner->chosen_at = now;
        } else if (tuner->n_recent > RECENT && tuner->period > FIRST_PERIOD && now > 1.5 * tuner->chosen_at) {
            tuner->chosen_at = now;
            tuner->quiet = 0;
            tuner->period = FIRST_PERIOD;
        }
        return;
    }

    tuner->tried[tuner->n_trial++] = time;
    const double goal = 0.95 * typical_recent(tuner);
    const int waking = tuner->up && tuner->n_trial == 1;
    const int over = tuner->n_trial == TRIAL;
    if (over && typical(tuner->tried, TRIAL) < goal) {
        choose(tuner, tuner->trial, FIRST_PERIOD);
    } else if (over || (time > goal && !waking)) {
        tuner->trial = 0;
        tuner->period = 2 * tuner->period < LAST_PERIOD ? 2 * tuner->period : LAST_PERIOD;
        tuner->quiet = tuner->period;
    }
}
