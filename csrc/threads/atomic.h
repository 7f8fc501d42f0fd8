/* Atomic words.  All operations are sequentially consistent, except word_store(), which only releases: writes before it
 * are visible to a thread that loads the new value. */
#ifndef FASTOPT_ATOMIC_H
#define FASTOPT_ATOMIC_H

#include <stdint.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
typedef volatile long atomic_word;

static inline uint32_t word_load(atomic_word *word)
{
    return (uint32_t)_InterlockedOr(word, 0);
}
static inline void word_store(atomic_word *word, uint32_t value)
{
    _InterlockedExchange(word, (long)value);
}
static inline uint32_t word_exchange(atomic_word *word, uint32_t value)
{
    return (uint32_t)_InterlockedExchange(word, (long)value);
}
static inline uint32_t word_add(atomic_word *word, uint32_t amount) /* returns the old value, like the others */
{
    return (uint32_t)_InterlockedExchangeAdd(word, (long)amount);
}
static inline uint32_t word_and(atomic_word *word, uint32_t bits)
{
    return (uint32_t)_InterlockedAnd(word, (long)bits);
}
static inline int word_replace(atomic_word *word, uint32_t expected,
                               uint32_t value) /* returns whether it was `expected` */
{
    return (uint32_t)_InterlockedCompareExchange(word, (long)value, (long)expected) == expected;
}
#else
typedef volatile uint32_t atomic_word;

static inline uint32_t word_load(atomic_word *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}
static inline void word_store(atomic_word *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}
static inline uint32_t word_exchange(atomic_word *word, uint32_t value)
{
    return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}
static inline uint32_t word_add(atomic_word *word, uint32_t amount) /* returns the old value, like the others */
{
    return __atomic_fetch_add(word, amount, __ATOMIC_SEQ_CST);
}
static inline uint32_t word_and(atomic_word *word, uint32_t bits)
{
    return __atomic_fetch_and(word, bits, __ATOMIC_SEQ_CST);
}
static inline int word_replace(atomic_word *word, uint32_t expected,
                               uint32_t value) /* returns whether it was `expected` */
{
    return __atomic_compare_exchange_n(word, &expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}
#endif

/* A short pause in a loop that polls a word. */
static inline void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(_M_X64) || defined(_M_IX86)
    _mm_pause();
#elif defined(__aarch64__) || (defined(__arm__) && __ARM_ARCH >= 7)
    __asm__ volatile("yield");
#endif
}

#endif
