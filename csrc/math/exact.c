/* Powers of the decay rates.  Every step wants the next power of the same few bases, so the last ones are kept. */
#include "exact.h"

#include "../platform.h"

enum {
    STRIDE = 32, /* b^n = b^(n mod STRIDE), one factor after the other, times (b^STRIDE)^(n / STRIDE), by squaring: the
                    order of the products, and so the bits, do not depend on what is kept */
    KEPT = 8,
};

typedef struct {
    int known;
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
        power powers[KEPT];
        int oldest;
    } of_thread;
    struct powers *volatile found = &of_thread; /* once: compilers would look the address up at each access */
    struct powers *const kept = found;
    const fastopt_pair one = {1, 0};
    power *last = kept->powers, *const end = last + KEPT;
    while (last < end && !(last->b == b && strides(last->n) == strides(n) && last->n <= n && last->known))
        last++;
    if (last < end) {
        last->low = by_steps(last->low, b, n - last->n);
    } else {
        last = &kept->powers[kept->oldest];
        kept->oldest = (kept->oldest + 1) % KEPT;
        last->known = 1;
        last->b = b;
        last->low = by_steps(one, b, n % STRIDE);
        last->high = by_squaring(by_steps(one, b, STRIDE), n / STRIDE);
    }
    last->n = n;
    return fastopt_times(last->low, last->high).hi;
}
