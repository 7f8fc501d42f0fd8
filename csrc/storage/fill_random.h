#include "random.h"

/* 32 random bits for each of n places of a parameter.  Streams, counted from 0, are independent of each other.  `x` is
 * added up, so that the compiler makes no product of it. */
static void FN(fill_random)(uint32_t *restrict out, uint64_t key, int stream, ptrdiff_t offset, ptrdiff_t n)
{
    const uint32_t apart = UINT32_C(0x9e3779b9);
    while (n > 0) {
        const uint64_t place = (uint64_t)offset, left = (UINT64_C(1) << 32) - (uint32_t)place;
        const uint64_t mixed = fastopt_mix(key + ((uint64_t)stream << 56) + (place >> 32));
        const ptrdiff_t run = (uint64_t)n < left ? n : (ptrdiff_t)left;
        uint32_t x = (uint32_t)mixed + (uint32_t)place * apart;
        for (ptrdiff_t i = 0; i < run; i++, x += apart)
            out[i] = fastopt_hash(x, (uint32_t)(mixed >> 32));
        out += run;
        offset += run;
        n -= run;
    }
}
