/* Random numbers without a state: a hash of a key and of an element's place in the whole parameter.  So they do not
 * depend on threads, instruction sets, slices and shards.
 *
 * A place is multiplied by 2^32 / golden ratio, and one half of the key is added.  Then come two rounds of a product
 * and a shift.  Between them the other half of the key is added: without it, keys would only shift the same sequence.
 */
#ifndef FASTOPT_RANDOM_H
#define FASTOPT_RANDOM_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t fastopt_mix(uint64_t x)
{
    x = (x ^ x >> 32) * UINT64_C(0xe9846af9b1a615d9);
    x = (x ^ x >> 29) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ x >> 32;
}

/* The key of a parameter's step. */
static inline uint64_t fastopt_random_key(uint64_t seed, uint64_t parameter, uint64_t step)
{
    return fastopt_mix(fastopt_mix(fastopt_mix(seed) + parameter) + step);
}

static inline uint32_t fastopt_hash(uint32_t x, uint32_t key)
{
    x = (x ^ x >> 16) * UINT32_C(0x21f0aaad);
    x = ((x ^ x >> 15) + key) * UINT32_C(0x735a2d97);
    return x ^ x >> 15;
}

#endif
