/* float32 and float64, which the compiler converts.  memcpy reads them, because gradients may lie at any byte. */
#define CONVERTED(type, name)                                                                                          \
    static void FN(load_##name)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n)            \
    {                                                                                                                  \
        const char *restrict in = (const char *)from->data + offset * (ptrdiff_t)sizeof(type);                         \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            type x;                                                                                                    \
            memcpy(&x, in + i * (ptrdiff_t)sizeof x, sizeof x);                                                        \
            out[i] = (T)x;                                                                                             \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void FN(store_##name)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,         \
                                 const uint32_t *restrict random, int shift)                                           \
    {                                                                                                                  \
        type *restrict out = (type *)to->data + offset;                                                                \
        (void)random, (void)shift;                                                                                     \
        for (ptrdiff_t i = 0; i < n; i++)                                                                              \
            out[i] = (type)x[i];                                                                                       \
    }
CONVERTED(float, float32)
CONVERTED(double, float64)
#undef CONVERTED
