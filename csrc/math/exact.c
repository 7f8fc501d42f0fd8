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

double fastopt_power(double b, int64_t n)
{
    static THREAD_LOCAL struct {
        power powers[KEPT];
        int oldest;
    } kept; /* in one, whose address is found once */
    const fastopt_pair one = {1, 0};
    power *last = kept.powers, *const end = last + KEPT;
    while (last < end && !(last->known && last->b == b && last->n / STRIDE == n / STRIDE && last->n <= n))
        last++;
    if (last < end) {
        last->low = by_steps(last->low, b, n - last->n);
    } else {
        last = &kept.powers[kept.oldest];
        kept.oldest = (kept.oldest + 1) % KEPT;
        last->known = 1;
        last->b = b;
        last->low = by_steps(one, b, n % STRIDE);
        last->high = by_squaring(by_steps(one, b, STRIDE), n / STRIDE);
    }
    last->n = n;
    return fastopt_times(last->low, last->high).hi;
}
