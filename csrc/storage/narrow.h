/* A T as a float32.  Doubles below the smallest normal float32 become 0, even if the CPU does not flush subnormals. */
static inline float FN(narrow)(T x)
{
    return (float)(sizeof(T) > sizeof(float) && ABS(x) < (T)FLT_MIN ? 0 * x : x);
}
