/* Chooses the number of threads by the mean time of steps, since the time of a training run is their sum.
 *
 * Most steps use the choice.  Now and then half or twice as many threads are tried for some steps in a row; they become
 * the choice if their mean time is lower.  Old times lose weight, at the same rate for all numbers of threads, so that
 * the means that are compared cover the same part of the loop.
 *
 * Trials have a budget: each step with the choice adds a share of its time.  Each step of a trial takes away the time
 * that it lost against the choice, and so does the step after the trial, which may wake threads and move data between
 * caches.  So a number of threads that is nearly as good is tried often, and a much worse one rarely. */
#include "tuner.h"

#include <math.h>

enum {
    RECENT = sizeof(((fastopt_tuner *)0)->recent) / sizeof(double),
    TRIAL = 4,       /* steps of a trial whose time counts, at least */
    FEW = 12,        /* with fewer times than this, a number of threads is tried after FIRST_PAUSE steps already */
    ENOUGH = 6,      /* times needed for a comparison */
    FIRST_PAUSE = 4, /* steps between trials, at least */
    PAUSE = 16,      /* steps between trials, usually */
    MEMORY = 256,    /* steps after which the weight of a time is 1/e */
    MOST_BLAME = 3,  /* times the mean: the longest time of a step after a trial that counts against the budget */
    CHANGED = 4,     /* medians in a row that differ from the first one: then the loop has changed */
    ALLOWANCE = 5,   /* the budget at first and at most, in steps */
};

/* After a change of the number of threads, times are ignored for at least this many seconds, since these steps wake
 * threads and move data between caches.  Then a trial counts times for at least as long.  Waking a thread takes longer
 * than a short step. */
static const double IGNORED = 5e-5;
static const double EARNED = 0.01;     /* share of the time of a step that is added to the budget */
static const double UNKNOWN = 0.25;    /* expected loss of an untried number of threads, in steps */
static const double TOO_SLOW = 1.5;    /* times the mean: ends a trial; times the first median: has changed */
static const double OUTLIER = 16;      /* times the first median: longer times have other causes and are cut */
static const double CERTAINTY = 0.7;   /* standard errors */
static const double WORTH_MORE = 0.96; /* of the mean of the choice: more threads must be below this */

static int index_of(int threads)
{
    int i = 0;
    while (1 << i < threads)
        i++;
    return i;
}

/* The next smaller and the next larger of 1, 2, 4, ... limit threads; the choice itself if there is none. */
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

/* The number of times measured, with the weights that they still have. */
static double count(const fastopt_tuner *tuner, int threads)
{
    return tuner->step_weight > 0 ? tuner->weight[index_of(threads)] / tuner->step_weight : 0;
}

/* The variance of the times divided by the square of their mean. */
static double spread(const fastopt_tuner *tuner, int threads)
{
    const int i = index_of(threads);
    const double m = mean(tuner, threads), variance = tuner->square[i] / tuner->weight[i] - m * m;
    return variance > 0 ? variance / (m * m) : 0;
}

/* The standard error of the mean of another number of threads against the mean of the choice, as a share of it.  A few
 * times may have missed rare long ones, so that their variance counts as at least a quarter of the variance of the
 * choice. */
static double error(const fastopt_tuner *tuner, int threads)
{
    const double own = spread(tuner, tuner->threads), other = spread(tuner, threads);
    return sqrt(own / count(tuner, tuner->threads) + (other > own / 4 ? other : own / 4) / count(tuner, threads));
}

/* Whether the mean of another number of threads is below this share of the mean of the choice, by more than chance
 * explains. */
static int is_better(const fastopt_tuner *tuner, int threads, double share)
{
    return count(tuner, threads) >= ENOUGH &&
           mean(tuner, threads) < (share - CERTAINTY * error(tuner, threads)) * mean(tuner, tuner->threads);
}

/* Whether the mean of another number of threads is above the mean of the choice, by more than chance explains.  Returns
 * 1 for the choice itself, too. */
static int is_worse(const fastopt_tuner *tuner, int threads)
{
    return threads == tuner->threads ||
           (count(tuner, threads) >= ENOUGH &&
            mean(tuner, threads) > (1 + CERTAINTY * error(tuner, threads)) * mean(tuner, tuner->threads));
}

static double median(const double *times, int n)
{
    double sorted[RECENT] = {0};
    for (int i = 0; i < n; i++) {
        int place = i;
        for (; place > 0 && sorted[place - 1] > times[i]; place--)
            sorted[place] = sorted[place - 1];
        sorted[place] = times[i];
    }
    return (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

/* Ignores the times of the next steps: at least this many, and for at least IGNORED seconds. */
static void ignore(fastopt_tuner *tuner, int steps)
{
    tuner->ignored_steps = steps;
    tuner->seconds_left = IGNORED;
}

static int is_ignored(fastopt_tuner *tuner, double seconds)
{
    if (!tuner->ignored_steps)
        return 0;
    tuner->seconds_left -= seconds;
    if (tuner->ignored_steps > 1 || tuner->seconds_left <= 0)
        tuner->ignored_steps--;
    if (!tuner->ignored_steps)
        tuner->seconds_left = IGNORED;
    return 1;
}

/* Makes a number of threads the choice, and forgets the recent times.  The next trial goes on in the same direction. */
static void choose(fastopt_tuner *tuner, int threads)
{
    tuner->tried_more = threads < tuner->threads;
    tuner->threads = threads;
    tuner->trial = 0;
    tuner->since_trial = 0;
    ignore(tuner, 1);
    tuner->n_recent = tuner->changed_medians = 0;
    tuner->first_median = 0;
}

/* Starts again from the recent times, since the loop has changed. */
static void start_again(fastopt_tuner *tuner)
{
    const int i = index_of(tuner->threads);
    for (int j = 0; j < FASTOPT_MAX_CHOICES; j++)
        tuner->time[j] = tuner->square[j] = tuner->weight[j] = 0;
    for (int j = 0; j < RECENT; j++) {
        tuner->time[i] += tuner->recent[j];
        tuner->square[i] += tuner->recent[j] * tuner->recent[j];
    }
    tuner->step_weight = 1;
    tuner->weight[i] = RECENT;
    tuner->credit = ALLOWANCE * mean(tuner, tuner->threads);
    tuner->since_trial = tuner->changed_medians = 0;
}

/* Adds a time.  Weights of new times grow, which equals old weights that shrink. */
static void add(fastopt_tuner *tuner, int threads, double time)
{
    const int i = index_of(threads);
    tuner->step_weight *= 1 + 1.0 / MEMORY;
    tuner->time[i] += tuner->step_weight * time;
    tuner->square[i] += tuner->step_weight * time * time;
    tuner->weight[i] += tuner->step_weight;
    if (tuner->step_weight > 1e30) {
        for (int j = 0; j < FASTOPT_MAX_CHOICES; j++) {
            tuner->time[j] /= tuner->step_weight;
            tuner->square[j] /= tuner->step_weight;
            tuner->weight[j] /= tuner->step_weight;
        }
        tuner->step_weight = 1;
    }
}

/* Moves to half or twice as many threads if the times so far are better.  If they are equal, fewer threads are better:
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

/* Whether a trial of another number of threads is due, and the budget allows it.  After a long pause a full budget
 * allows any trial: a number that was very slow while another process had the CPUs may be fast now. */
static int can_try(const fastopt_tuner *tuner, int threads)
{
    const double known = count(tuner, threads), now = mean(tuner, tuner->threads);
    const double loss = known > 0 ? mean(tuner, threads) - now : UNKNOWN * now;
    return threads != tuner->threads && (known < FEW || tuner->since_trial >= PAUSE) &&
           (TRIAL * loss <= tuner->credit || (tuner->since_trial >= MEMORY && tuner->credit >= ALLOWANCE * now));
}

/* Begins a trial of more and of fewer threads in turn.  If one of them cannot be tried, the other is. */
static void consider_trial(fastopt_tuner *tuner)
{
    if (tuner->since_trial < FIRST_PAUSE)
        return;
    const int few = fewer(tuner), many = more(tuner);
    const int up = tuner->tried_more ? !can_try(tuner, few) : can_try(tuner, many);
    const int threads = up ? many : few;
    if (!can_try(tuner, threads))
        return;
    tuner->tried_more = up;
    tuner->trial = threads;
    tuner->trial_steps = TRIAL;
    ignore(tuner, 1);
}

int fastopt_next_threads(fastopt_tuner *tuner, int limit)
{
    if (tuner->threads == 0) {
        choose(tuner, limit);
        tuner->step_weight = 1;
        tuner->is_new = 1;
        ignore(tuner, 2); /* the first steps touch the state for the first time */
    }
    if (limit > tuner->limit)
        tuner->limit = limit;
    const int threads = tuner->trial ? tuner->trial : tuner->threads;
    return threads < limit ? threads : limit;
}

/* Takes the time that a step lost against the choice from the budget. */
static void pay(fastopt_tuner *tuner, double time)
{
    const double now = mean(tuner, tuner->threads);
    if (time > now)
        tuner->credit -= time - now;
}

static void note_trial(fastopt_tuner *tuner, double time, double seconds)
{
    pay(tuner, time);
    if (is_ignored(tuner, seconds))
        return;
    add(tuner, tuner->trial, time);
    tuner->seconds_left -= seconds;
    tuner->trial_steps -= tuner->trial_steps > 0;
    if ((tuner->trial_steps > 0 || tuner->seconds_left > 0) && time < TOO_SLOW * mean(tuner, tuner->threads))
        return;
    tuner->trial = 0;
    tuner->since_trial = 0;
    ignore(tuner, 1);
    compare(tuner);
    /* The choice is found: from now on trials have only what steps add to the budget. */
    if (is_worse(tuner, fewer(tuner)) && is_worse(tuner, more(tuner)) && tuner->credit > 0)
        tuner->credit = 0;
}

static void note_choice(fastopt_tuner *tuner, double time, double seconds)
{
    if (is_ignored(tuner, seconds)) {
        if (!tuner->is_new) {
            const double most = MOST_BLAME * mean(tuner, tuner->threads);
            pay(tuner, time < most ? time : most);
        }
        return;
    }
    add(tuner, tuner->threads, time);
    const double most = ALLOWANCE * mean(tuner, tuner->threads);
    tuner->credit += EARNED * time;
    if (tuner->is_new || tuner->credit > most)
        tuner->credit = most;
    tuner->is_new = 0;
    tuner->since_trial++;
    tuner->recent[tuner->n_recent++ % RECENT] = time;
    if (tuner->n_recent % RECENT == 0) {
        const double now = median(tuner->recent, RECENT);
        const int changed = now > TOO_SLOW * tuner->first_median || TOO_SLOW * now < tuner->first_median;
        tuner->changed_medians = changed ? tuner->changed_medians + 1 : 0;
        if (tuner->first_median == 0) {
            tuner->first_median = now;
        } else if (tuner->changed_medians == CHANGED) {
            start_again(tuner);
            tuner->first_median = now;
        }
    }
    if (tuner->since_trial % PAUSE == 0)
        compare(tuner);
    consider_trial(tuner);
}

void fastopt_note_time(fastopt_tuner *tuner, int threads, double seconds, ptrdiff_t elements)
{
    if (threads != (tuner->trial ? tuner->trial : tuner->threads))
        return; /* a step with fewer elements than usual: not comparable */
    double time = seconds / (double)elements;
    if (tuner->first_median > 0 && time > OUTLIER * tuner->first_median)
        time = OUTLIER * tuner->first_median;
    if (tuner->trial)
        note_trial(tuner, time, seconds);
    else
        note_choice(tuner, time, seconds);
}
