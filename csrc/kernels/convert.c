/* Conversion of whole buffers, with the loads and stores of the kernels. */
#include "kernels.h"

/* The kernels that convert between float and this format, or NULL. */
static const fastopt_typed_kernels *kernels_for(fastopt_format format)
{
    const fastopt_kernels *kernels = fastopt_active_kernels();
    return kernels && format > FASTOPT_NATIVE && (int)format < FORMATS ? &kernels->by_dtype[FASTOPT_FLOAT32] : NULL;
}

fastopt_status fastopt_decode(fastopt_format format, const void *data, const void *rest, ptrdiff_t n, float *out)
{
    const fastopt_typed_kernels *kernels = kernels_for(format);
    if (!kernels)
        return fastopt_active_kernels() ? FASTOPT_BAD_TENSOR : FASTOPT_BAD_ISA;
    const fastopt_buffer from = {(void *)data, (void *)rest, format};
    const uint64_t mode = flush_begin();
    kernels->load_all(&from, n, out);
    flush_end(mode);
    return FASTOPT_OK;
}

fastopt_status fastopt_encode(fastopt_format format, const float *x, ptrdiff_t n, void *data, void *rest)
{
    const fastopt_typed_kernels *kernels = kernels_for(format);
    if (!kernels)
        return fastopt_active_kernels() ? FASTOPT_BAD_TENSOR : FASTOPT_BAD_ISA;
    const fastopt_buffer to = {data, rest, format};
    const uint64_t mode = flush_begin();
    kernels->store_all(x, &to, n);
    flush_end(mode);
    return FASTOPT_OK;
}
