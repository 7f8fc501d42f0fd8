/* A T as a float32, in which numbers too small for a normal one count as 0, whether or not the CPU flushes them. */
static inline float FN(narrow)(T x)
{
    return (float)(sizeof(T) > sizeof(float) && ABS(x) < (T)FLT_MIN ? 0 * x : x);
}
