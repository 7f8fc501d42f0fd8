/* Elements that are stored in another format, or at strides, are loaded into T and stored from it, a block at a time.
 */

#include "fill_random.h"
#include "narrow.h"

#define FORMAT_FILES
#include "formats.def"
#undef FORMAT_FILES

/* The functions of a format, for elements offset to offset + n of a buffer.  With groups, offset is a multiple of one,
 * and so is n unless the buffer ends there.  The random bits of element i are (random[i] >> shift) & 0xffff, with a
 * shift of 0 or 16; without random numbers rounding is to nearest. */
typedef struct {
    void (*load)(T *restrict out, const fastopt_buffer *from, ptrdiff_t offset, ptrdiff_t n);
    void (*store)(const T *restrict x, const fastopt_buffer *to, ptrdiff_t offset, ptrdiff_t n,
                  const uint32_t *restrict random, int shift);
} FN(format_ops);

static const FN(format_ops) FN(formats)[FORMATS] = {
#define FORMAT(name, format, ...) [FASTOPT_##format] = {FN(load_##name), FN(store_##name)},
#include "formats.def"
#undef FORMAT
};

/* Copies n elements of a strided array, counted in the order of the layout, to or from a block. */
#define COPY_STRIDED(name, type)                                                                                       \
    static inline void FN(name)(void *block, void *array, const fastopt_layout *layout, const ptrdiff_t *stride,       \
                                ptrdiff_t offset, ptrdiff_t n, fastopt_direction direction)                            \
    {                                                                                                                  \
        const int last = layout->ndim - 1;                                                                             \
        type *inner = block;                                                                                           \
        char *outer = array;                                                                                           \
        ptrdiff_t index[FASTOPT_MAX_NDIM];                                                                             \
        for (int d = last; d >= 0; d--) {                                                                              \
            index[d] = offset % layout->shape[d];                                                                      \
            offset /= layout->shape[d];                                                                                \
            outer += index[d] * stride[d];                                                                             \
        }                                                                                                              \
        while (n > 0) {                                                                                                \
            const ptrdiff_t left = layout->shape[last] - index[last], run = left < n ? left : n;                       \
            if (direction == STORE)                                                                                    \
                for (ptrdiff_t i = 0; i < run; i++)                                                                    \
                    memcpy(outer + i * stride[last], &inner[i], sizeof(type));                                         \
            else                                                                                                       \
                for (ptrdiff_t i = 0; i < run; i++)                                                                    \
                    memcpy(&inner[i], outer + i * stride[last], sizeof(type));                                         \
            inner += run;                                                                                              \
            n -= run;                                                                                                  \
            outer += run * stride[last];                                                                               \
            index[last] += run;                                                                                        \
            for (int d = last; d > 0 && index[d] == layout->shape[d]; d--) {                                           \
                outer += stride[d - 1] - index[d] * stride[d];                                                         \
                index[d] = 0;                                                                                          \
                index[d - 1]++;                                                                                        \
            }                                                                                                          \
        }                                                                                                              \
    }
COPY_STRIDED(copy_strided, T)
COPY_STRIDED(copy_strided_16, uint16_t)
COPY_STRIDED(copy_strided_32, uint32_t)
COPY_STRIDED(copy_strided_64, uint64_t)
#undef COPY_STRIDED

/* The same of elements in another format, by their size. */
NOINLINE static void FN(copy_strided_format)(void *block, const fastopt_buffer *buffer, const fastopt_layout *layout,
                                             const ptrdiff_t *stride, ptrdiff_t offset, ptrdiff_t n,
                                             fastopt_direction direction)
{
    switch (fastopt_format_infos[buffer->format].bytes) {
    case 2:
        FN(copy_strided_16)(block, buffer->data, layout, stride, offset, n, direction);
        break;
    case 4:
        FN(copy_strided_32)(block, buffer->data, layout, stride, offset, n, direction);
        break;
    default:
        FN(copy_strided_64)(block, buffer->data, layout, stride, offset, n, direction);
    }
}

/* A buffer whose elements have been brought together from strides: those from `offset` on.  Second parts have none. */
static fastopt_buffer FN(gathered)(const fastopt_buffer *buffer, void *elements, ptrdiff_t offset)
{
    const ptrdiff_t size = fastopt_format_infos[buffer->format].rest_bytes;
    return (fastopt_buffer){elements, size ? (char *)buffer->rest + offset * size : NULL, buffer->format};
}

/* Loads and stores p or g in another format: up to BLOCK elements, at strides if the tensor has a layout. */
NOINLINE static void FN(load_format)(T *restrict out, const fastopt_buffer *from, const fastopt_layout *layout,
                                     const ptrdiff_t *stride, ptrdiff_t offset, ptrdiff_t n)
{
    if (!layout) {
        FN(formats)[from->format].load(out, from, offset, n);
        return;
    }
    _Alignas(double) char elements[BLOCK * sizeof(double)];
    const fastopt_buffer gathered = FN(gathered)(from, elements, offset);
    FN(copy_strided_format)(elements, from, layout, stride, offset, n, LOAD);
    FN(formats)[from->format].load(out, &gathered, 0, n);
}

NOINLINE static void FN(store_format)(const T *restrict x, const fastopt_buffer *to, const fastopt_layout *layout,
                                      const ptrdiff_t *stride, ptrdiff_t offset, ptrdiff_t n,
                                      const uint32_t *restrict random, int shift)
{
    if (!layout) {
        FN(formats)[to->format].store(x, to, offset, n, random, shift);
        return;
    }
    _Alignas(double) char elements[BLOCK * sizeof(double)];
    const fastopt_buffer gathered = FN(gathered)(to, elements, offset);
    FN(formats)[to->format].store(x, &gathered, 0, n, random, shift);
    FN(copy_strided_format)(elements, to, layout, stride, offset, n, STORE);
}

/* Whole buffers without strides, for those who look at what is stored. */
static void FN(load_all)(const fastopt_buffer *from, ptrdiff_t n, void *out)
{
    FN(formats)[from->format].load(out, from, 0, n);
}

static void FN(store_all)(const void *x, const fastopt_buffer *to, ptrdiff_t n)
{
    FN(formats)[to->format].store(x, to, 0, n, NULL, 0);
}
