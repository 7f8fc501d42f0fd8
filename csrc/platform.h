/* Differences between compilers and CPUs: instruction sets, subnormals, prefetching, atomic operations. */
#ifndef FASTOPT_PLATFORM_H
#define FASTOPT_PLATFORM_H

#include <stddef.h>
#include <stdint.h>

/* Whether kernels are compiled for more instruction sets than the compiler's default. */
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
#define FASTOPT_X86_TARGETS 1
#else
#define FASTOPT_X86_TARGETS 0
#endif

/* X(isa, ...) for each of them, widest vectors last. */
#if FASTOPT_X86_TARGETS
#define FASTOPT_ISAS(X, ...)                                                                                           \
    X(baseline, __VA_ARGS__) X(avx2, __VA_ARGS__) X(avx512, __VA_ARGS__) X(avx512wide, __VA_ARGS__)
#else
#define FASTOPT_ISAS(X, ...) X(baseline, __VA_ARGS__)
#endif

/* Subnormals are flushed to zero while kernels run: decayed state sticks at them and slows a step several times.
 * flush_begin() returns the caller's mode and exception flags for flush_end(), which leaves all as it was. */
#if defined(__x86_64__) || defined(_M_X64) || defined(__SSE2__)
#include <xmmintrin.h>
static inline uint64_t flush_begin(void)
{
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040); /* flush to zero, denormals are zero */
    return mode;
}
static inline void flush_end(uint64_t mode)
{
    _mm_setcsr((unsigned)mode);
}
#elif defined(__aarch64__)
static inline uint64_t flush_begin(void)
{
    uint64_t mode, flags; /* 32 bits each */
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (UINT64_C(1) << 24)));
    return mode | flags << 32;
}
static inline void flush_end(uint64_t mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(mode & 0xffffffff));
    __asm__ volatile("msr fpsr, %0" : : "r"(mode >> 32));
}
#elif defined(_M_ARM64)
#include <intrin.h>
static inline uint64_t flush_begin(void)
{
    const uint64_t mode = (uint64_t)_ReadStatusReg(ARM64_FPCR), flags = (uint64_t)_ReadStatusReg(ARM64_FPSR);
    _WriteStatusReg(ARM64_FPCR, (__int64)(mode | (UINT64_C(1) << 24)));
    return mode | flags << 32;
}
static inline void flush_end(uint64_t mode)
{
    _WriteStatusReg(ARM64_FPCR, (__int64)(mode & 0xffffffff));
    _WriteStatusReg(ARM64_FPSR, (__int64)(mode >> 32));
}
#else /* unknown CPU: subnormals are not flushed, so results near them differ */
static inline uint64_t flush_begin(void)
{
    return 0;
}
static inline void flush_end(uint64_t mode)
{
    (void)mode;
}
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#define THREAD_LOCAL __declspec(thread)
#define NOINLINE     __declspec(noinline)
#if defined(_M_X64)
#define PREFETCH(address) _mm_prefetch((const char *)(address), _MM_HINT_T0)
#else
#define PREFETCH(address) ((void)(address))
#endif
#else
#define THREAD_LOCAL      _Thread_local
#define NOINLINE          __attribute__((noinline))
#define PREFETCH(address) __builtin_prefetch(address)
#endif

/* fetch_add() adds to a counter that threads share and returns its old value.  load_pointer() and store_pointer() are
 * for pointers that any thread may compute first, since all threads compute the same one, to constant data. */
#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
static inline ptrdiff_t fetch_add(volatile ptrdiff_t *counter, ptrdiff_t amount)
{
#ifdef _WIN64
    return (ptrdiff_t)_InterlockedExchangeAdd64((volatile long long *)counter, amount);
#else
    return (ptrdiff_t)_InterlockedExchangeAdd((volatile long *)counter, amount);
#endif
}
static inline const void *load_pointer(const void *const volatile *pointer)
{
    return *pointer;
}
static inline void store_pointer(const void *volatile *pointer, const void *value)
{
    *pointer = value;
}
#else
static inline ptrdiff_t fetch_add(volatile ptrdiff_t *counter, ptrdiff_t amount)
{
    return __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED);
}
static inline const void *load_pointer(const void *const volatile *pointer)
{
    return __atomic_load_n(pointer, __ATOMIC_RELAXED);
}
static inline void store_pointer(const void *volatile *pointer, const void *value)
{
    __atomic_store_n(pointer, value, __ATOMIC_RELAXED);
}
#endif

#endif
