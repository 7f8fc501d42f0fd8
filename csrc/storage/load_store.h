/* A block of elements that are stored in another format, or at strides, is loaded into T or stored from it. */

/* Loads elements of another format at a stride in bytes.  memcpy, because they may be aligned to bytes only. */
NOINLINE static void FN(convert)(T *restrict out, const char *g, ptrdiff_t stride, ptrdiff_t n, fastopt_format format)
{
    switch (format) {
#define CONVERT(name, type, value)                                                                                     \
    case name:                                                                                                         \
        if (stride == sizeof(type)) {                                                                                  \
            for (ptrdiff_t i = 0; i < n; i++) {                                                                        \
                type x;                                                                                                \
                memcpy(&x, g + i * (ptrdiff_t)sizeof x, sizeof x);                                                     \
                out[i] = (T)(value);                                                                                   \
            }                                                                                                          \
            break;                                                                                                     \
        }                                                                                                              \
        for (ptrdiff_t i = 0; i < n; i++) {                                                                            \
            type x;                                                                                                    \
            memcpy(&x, g + i * stride, sizeof x);                                                                      \
            out[i] = (T)(value);                                                                                       \
        }                                                                                                              \
        break;
        FASTOPT_FORMATS(CONVERT)
#undef CONVERT
    case FASTOPT_G_LIKE_P:
        break;
    }
}

/* Sets elements to zero, which is bytes of 0 in every format. */
NOINLINE static void FN(clear)(char *g, ptrdiff_t stride, ptrdiff_t n, fastopt_format format)
{
    const size_t size = fastopt_format_size(format);
    for (ptrdiff_t i = 0; i < n; i++)
        memset(g + i * stride, 0, size);
}

/* Copies n elements of a strided array, counted in the order of the layout, to or from a block.  Elements in another
 * format are loaded, or set to zero. */
static inline void FN(copy_strided)(T *block, char *array, const fastopt_layout *layout, const ptrdiff_t *stride,
                                    ptrdiff_t offset, ptrdiff_t n, fastopt_direction direction, fastopt_format format)
{
    const int last = layout->ndim - 1;
    ptrdiff_t index[FASTOPT_MAX_NDIM];
    for (int d = last; d >= 0; d--) {
        index[d] = offset % layout->shape[d];
        offset /= layout->shape[d];
        array += index[d] * stride[d];
    }
    while (n > 0) {
        const ptrdiff_t left = layout->shape[last] - index[last], run = left < n ? left : n;
        if (format && direction == STORE)
            FN(clear)(array, stride[last], run, format);
        else if (format)
            FN(convert)(block, array, stride[last], run, format);
        else if (direction == STORE)
            for (ptrdiff_t i = 0; i < run; i++)
                memcpy(array + i * stride[last], &block[i], sizeof(T));
        else
            for (ptrdiff_t i = 0; i < run; i++)
                memcpy(&block[i], array + i * stride[last], sizeof(T));
        block += run;
        n -= run;
        array += run * stride[last];
        index[last] += run;
        for (int d = last; d > 0 && index[d] == layout->shape[d]; d--) {
            array += stride[d - 1] - index[d] * stride[d];
            index[d] = 0;
            index[d - 1]++;
        }
    }
}
