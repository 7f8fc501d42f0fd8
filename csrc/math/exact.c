/* Powers of the decay rates.  Each step needs the next powers of the same few bases, so each thread caches the last
 * ones. */
#include "exact.h"

#include "../platform.h"

enum {
    STRIDE = 32, /* b^n = b^(n mod STRIDE), factor by factor, times (b^STRIDE)^(n / STRIDE), by squaring: a fixed order
                    of products, so that bits do not depend on the cache */
    CACHED = 8,
};

typedef struct {
    int used;
    double b;
    int64_t n;
    fastopt_pair low, high; /* b^(n mod STRIDE), b^(n - n mod STRIDE) */
} power;

static fastopt_pair by_steps(fastopt_pair from, double b, int64_t factors)
{
    for (; factors; factors--)
        from = fastopt_times(from, (fastopt_pair){b, 0});
    return from;
}

static fastopt_pair by_squaring(fastopt_pair b, int64_t n)
{
    fastopt_pair power = {1, 0};
    for (; n; n >>= 1) {
        if (n & 1)
            power = fastopt_times(power, b);
        b = fastopt_times(b, b);
    }
    return power;
}

static uint64_t strides(int64_t n)
{
    return (uint64_t)n / STRIDE;
}

double fastopt_power(double b, int64_t n)
{
    static THREAD_LOCAL struct powers {
        power powers[CACHED];
        int oldest;
    } of_thread;
    struct powers *volatile address = &of_thread; /* looked up once: compilers would do so at each access */
    struct powers *const cache = address;
    const fastopt_pair one = {1, 0};
    power *last = cache->powers, *const end = last + CACHED;
    while (last < end && !(last->b == b && strides(last->n) == strides(n) && last->n <= n && last->used))
        last++;
    if (last < end) {
        last->low = by_steps(last->low, b, n - last->n);
    } else {
        last = &cache->powers[cache->oldest];
        cache->oldest = (cache->oldest + 1) % CACHED;
        last->used = 1;
        last->b = b;
        last->low = by_steps(one, b, n % STRIDE);
        last->high = by_squaring(by_steps(one, b, STRIDE), n / STRIDE);
    }
    last->n = n;
    return fastopt_times(last->low, last->high).hi;
}
