/* Choosing the number of threads by the mean time of steps, since a training run is a sum of them.
 *
 * The choice is used for most steps.  Now and then half or twice as many threads are tried for some steps in a row, and
 * become the choice when the mean of their times is lower.  Times fade with age, for the choice and for what is tried
 * at the same rate, so that means of the same stretch of the loop are compared.
 *
 * Trials are paid for: each step with the choice earns a share of its time, and what a trial took longer than the
 * choice would have is taken off, and so is what the step after it took longer, which may wake threads and move data
 * between caches.  So a number of threads that is nearly as good is tried often, and one that is much
 * worse seldom. */
#include "tuner.h"

#include <math.h>

enum {
    RECENT = sizeof(((fastopt_tuner *)0)->recent) / sizeof(double),
    TRIAL = 4,       /* steps that are counted, at least */
    FEW = 12,        /* times of a number of threads, below which it is tried after FIRST_PAUSE steps */
    ENOUGH = 6,      /* to be compared */
    FIRST_PAUSE = 4, /* steps between trials, at least */
    PAUSE = 16,
    MEMORY = 256,  /* steps after which a time has faded to 1/e */
    DEAREST = 3,   /* times the mean: the most that a trial is blamed for of a step after it */
    DOUBTS = 4,    /* times RECENT steps of another length, until they are no mere disturbance */
    ALLOWANCE = 8, /* steps: what the first trials may cost, and what can be saved up for later ones */
};

/* Seconds, at least, of the steps that are not counted when the number of threads has changed, since they wake threads
 * and move data between caches; and of those of a trial that are.  To wake a thread takes longer than many a step. */
static const double SETTLING = 5e-5;
static const double EARNED = 0.02;     /* of a step's time, for trials */
static const double UNKNOWN = 0.5;     /* of a step's time: what a step of a trial is expected to cost */
static const double TOO_SLOW = 1.5;    /* times the mean: a trial ends with such a step, a choice is doubted */
static const double OUTLIER = 16;      /* times the median: such a step says nothing of the number of threads */
static const double CERTAINTY = 0.7;   /* standard errors */
static const double WORTH_MORE = 0.96; /* of the mean: what more threads must come to */

static int index_of(int threads)
{
    int i = 0;
    while (1 << i < threads)
        i++;
    return i;
}

/* Of 1, 2, 4, ... threads the next fewer and the next more, the most being the limit; the same where there are none. */
static int fewer(const fastopt_tuner *tuner)
{
    return tuner->threads == 1 ? 1 : 1 << (index_of(tuner->threads) - 1);
}

static int more(const fastopt_tuner *tuner)
{
    const int twice = 2 << index_of(tuner->threads);
    return tuner->threads >= tuner->limit ? tuner->threads : twice < tuner->limit ? twice : tuner->limit;
}

static double mean(const fastopt_tuner *tuner, int threads)
{
    const int i = index_of(threads);
    return tuner->time[i] / tuner->weight[i];
}

/* How many times it was measured, not counting what has faded. */
static double count(const fastopt_tuner *tuner, int threads)
{
    return tuner->now > 0 ? tuner->weight[index_of(threads)] / tuner->now : 0;
}

/* The variance of a time relative to the square of the mean. */
static double spread(const fastopt_tuner *tuner, int threads)
{
    const int i = index_of(threads);
    const double m = mean(tuner, threads), variance = tuner->square[i] / tuner->weight[i] - m * m;
    return variance > 0 ? variance / (m * m) : 0;
}

/* Whether another number of threads has a mean below so much of the choice's, by more than what chance makes of both.
 * Few times may have missed the seldom and long ones, so that their spread counts as a quarter of the choice's at
 * least. */
static int is_better(const fastopt_tuner *tuner, int threads, double share)
{
    if (count(tuner, threads) < ENOUGH)
        return 0;
    const double own = spread(tuner, tuner->threads), other = spread(tuner, threads);
    const double error =
        own / count(tuner, tuner->threads) + (other > own / 4 ? other : own / 4) / count(tuner, threads);
    return mean(tuner, threads) < (share - CERTAINTY * sqrt(error)) * mean(tuner, tuner->threads);
}

static double median(const double *times, int n)
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

/* Does not count the next steps: so many, and as long as it takes. */
static void settle(fastopt_tuner *tuner, int steps)
{
    tuner->settling = steps;
    tuner->seconds = SETTLING;
}

static int is_settling(fastopt_tuner *tuner, double seconds)
{
    if (!tuner->settling)
        return 0;
    tuner->seconds -= seconds;
    if (tuner->settling > 1 || tuner->seconds <= 0)
        tuner->settling--;
    if (!tuner->settling)
        tuner->seconds = SETTLING;
    return 1;
}

/* Makes a number of threads the choice, and forgets how fast recent steps were. */
static void choose(fastopt_tuner *tuner, int threads)
{
    tuner->threads = threads;
    tuner->trial = 0;
    tuner->calm = 0;
    settle(tuner, 1);
    tuner->n_recent = tuner->doubts = 0;
    tuner->typical = 0;
}

/* Starts afresh from the recent steps: the loop has changed. */
static void doubt(fastopt_tuner *tuner)
{
    const int i = index_of(tuner->threads);
    for (int j = 0; j < FASTOPT_MAX_CHOICES; j++)
        tuner->time[j] = tuner->square[j] = tuner->weight[j] = 0;
    for (int j = 0; j < RECENT; j++) {
        tuner->time[i] += tuner->recent[j];
        tuner->square[i] += tuner->recent[j] * tuner->recent[j];
    }
    tuner->now = 1;
    tuner->weight[i] = RECENT;
    tuner->credit = ALLOWANCE * mean(tuner, tuner->threads);
    tuner->calm = tuner->doubts = 0;
}

/* Notes a time; later ones weigh more, which is as if earlier ones faded. */
static void add(fastopt_tuner *tuner, int threads, double time)
{
    const int i = index_of(threads);
    tuner->now *= 1 + 1.0 / MEMORY;
    tuner->time[i] += tuner->now * time;
    tuner->square[i] += tuner->now * time * time;
    tuner->weight[i] += tuner->now;
    if (tuner->now > 1e30) {
        for (int j = 0; j < FASTOPT_MAX_CHOICES; j++) {
            tuner->time[j] /= tuner->now;
            tuner->square[j] /= tuner->now;
            tuner->weight[j] /= tuner->now;
        }
        tuner->now = 1;
    }
}

/* Moves to half or twice as many threads if the times so far say so.  Of equals the fewer threads are the better ones:
 * others can use the CPUs. */
static void compare(fastopt_tuner *tuner)
{
    const int few = fewer(tuner), many = more(tuner);
    if (count(tuner, tuner->threads) < ENOUGH)
        return;
    if (few < tuner->threads && is_better(tuner, few, 1))
        choose(tuner, few);
    else if (many > tuner->threads && is_better(tuner, many, WORTH_MORE))
        choose(tuner, many);
}

/* Begins a trial if it is time and can be afforded. */
static void consider_trial(fastopt_tuner *tuner)
{
    if (tuner->calm < FIRST_PAUSE)
        return;
    const int up = tuner->threads == 1 || (!tuner->up && tuner->threads < tuner->limit);
    const int threads = up ? more(tuner) : fewer(tuner);
    const double known = count(tuner, threads), now = mean(tuner, tuner->threads);
    const double loss = known > 0 ? mean(tuner, threads) - now : UNKNOWN * now;
    if ((known >= FEW && tuner->calm < PAUSE) || TRIAL * loss > tuner->credit)
        return;
    tuner->up = up;
    tuner->trial = threads;
    tuner->left = TRIAL;
    settle(tuner, 1);
}

int fastopt_next_threads(fastopt_tuner *tuner, int limit)
{
    if (tuner->threads == 0) {
        choose(tuner, limit);
        tuner->now = 1;
        tuner->fresh = 1;
        settle(tuner, 2); /* their state is touched for the first time */
    }
    if (limit > tuner->limit)
        tuner->limit = limit;
    const int threads = tuner->trial ? tuner->trial : tuner->threads;
    return threads < limit ? threads : limit;
}

/* Takes off what a trial made a step longer than most. */
static void pay(fastopt_tuner *tuner, double time)
{
    const double now = mean(tuner, tuner->threads);
    if (time > now)
        tuner->credit -= time - now;
}

static void note_trial(fastopt_tuner *tuner, double time, double seconds)
{
    pay(tuner, time);
    if (is_settling(tuner, seconds))
        return;
    add(tuner, tuner->trial, time);
    tuner->seconds -= seconds;
    tuner->left -= tuner->left > 0;
    if ((tuner->left > 0 || tuner->seconds > 0) && time < TOO_SLOW * mean(tuner, tuner->threads))
        return;
    tuner->trial = 0;
    tuner->calm = 0;
    settle(tuner, 1);
    compare(tuner);
}

static void note_choice(fastopt_tuner *tuner, double time, double seconds)
{
    if (is_settling(tuner, seconds)) {
        if (!tuner->fresh) {
            const double most = DEAREST * mean(tuner, tuner->threads);
            pay(tuner, time < most ? time : most);
        }
        return;
    }
    add(tuner, tuner->threads, time);
    const double most = ALLOWANCE * mean(tuner, tuner->threads);
    tuner->credit += EARNED * time;
    if (tuner->fresh || tuner->credit > most)
        tuner->credit = most;
    tuner->fresh = 0;
    tuner->calm++;
    tuner->recent[tuner->n_recent++ % RECENT] = time;
    if (tuner->n_recent % RECENT == 0) {
        const double now = median(tuner->recent, RECENT);
        const int changed = now > TOO_SLOW * tuner->typical || TOO_SLOW * now < tuner->typical;
        tuner->doubts = changed ? tuner->doubts + 1 : 0;
        if (tuner->typical == 0) {
            tuner->typical = now;
        } else if (tuner->doubts == DOUBTS) {
            doubt(tuner);
            tuner->typical = now;
        }
    }
    if (tuner->calm % PAUSE == 0)
        compare(tuner);
    consider_trial(tuner);
}

void fastopt_note_time(fastopt_tuner *tuner, int threads, double seconds, ptrdiff_t elements)
{
    if (threads != (tuner->trial ? tuner->trial : tuner->threads))
        return; /* a shorter step than most: it says nothing of them */
    double time = seconds / (double)elements;
    if (tuner->typical > 0 && time > OUTLIER * tuner->typical)
        time = OUTLIER * tuner->typical;
    if (tuner->trial)
        note_trial(tuner, time, seconds);
    else
        note_choice(tuner, time, seconds);
}
