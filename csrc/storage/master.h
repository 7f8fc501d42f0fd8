/* A float16 or bfloat16 and, in the rest, the float32 from which it was rounded.  If the float32 does not round to it,
 * the caller has overwritten the 16-bit number, and this is the value.  Rounding is always to nearest: after random
 * rounding the two could not be compared. */

#define MASTER(name, nearest, value)                                                                                   \
    static void FN(load_master_##name)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n)     \
    {                                                                                                                  \
        const uint16_t *restrict data = (const uint16_t *)from->data + offset;                                         \
        const float *restrict master = (const float *)from->rest + offset;                                             \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            out[i] = (T)(nearest(master[i]) == data[i] ? master[i] : value(data[i]));                                  \
    }                                                                                                                  \
                                                                                                                       \
    static void FN(store_master_##name)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,  \
                                        const uint32_t *restrict random, int shift)                                    \
    {                                                                                                                  \
        uint16_t *restrict data = (uint16_t *)to->data + offset;                                                       \
        float *restrict master = (float *)to->rest + offset;                                                           \
        (void)random, (void)shift;                                                                                     \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            master[i] = FN(narrow)(x[i]);                                                                              \
            data[i] = nearest(FN(narrow)(x[i]));                                                                       \
        }                                                                                                              \
    }
MASTER(float16, fastopt_nearest_half, fastopt_from_half)
MASTER(bfloat16, fastopt_nearest_bfloat16, fastopt_from_bfloat16)
#undef MASTER
