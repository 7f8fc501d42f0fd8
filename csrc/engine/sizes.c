/* Programs that were compiled with another version of the header: their structs are copied into the structs of this
 * version, and back. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

/* The ends of the structs in the first version of the header.  Fields that were added since come after these. */
#define END_OF(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))
enum {
    FIRST_TENSOR = END_OF(fastopt_tensor, engine),
    FIRST_OPTIONS = END_OF(fastopt_options, lookahead_rate),
    FIRST_CALL = END_OF(fastopt_call, data),
};

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

int fastopt_read_struct(void *own, size_t own_size, const void *theirs, size_t size)
{
    for (size_t i = own_size; i < size; i++)
        if (((const char *)theirs)[i])
            return 0;
    memset(own, 0, own_size);
    memcpy(own, theirs, smaller(size, own_size));
    return 1;
}

void fastopt_write_struct(void *theirs, size_t size, const void *own, size_t own_size)
{
    memcpy(theirs, own, smaller(size, own_size));
}

/* Where a pointer into an array of tensors points in the copy of the array; other pointers stay. */
static const void *moved(const void *pointer, const void *from, size_t size, const void *to, size_t to_size,
                         ptrdiff_t count)
{
    const size_t at = (uintptr_t)pointer - (uintptr_t)from;
    return at < (size_t)count * size ? (const char *)to + at / size * to_size + at % size : pointer;
}

fastopt_status fastopt_on_copies(fastopt_sizes sizes, fastopt_tensor *tensors, ptrdiff_t count,
                                 fastopt_operation *operation, void *argument)
{
    char *theirs = (char *)tensors;
    fastopt_tensor *own;
    fastopt_options *options;
    fastopt_status status = FASTOPT_BAD_ABI;
    if (sizes.abi_version != FASTOPT_ABI_VERSION || sizes.tensor < FIRST_TENSOR || sizes.options < FIRST_OPTIONS ||
        sizes.call < FIRST_CALL)
        return status;
    own = malloc((size_t)(count + 1) * (sizeof *own + sizeof *options));
    if (!own)
        return FASTOPT_NO_MEMORY;
    options = (fastopt_options *)(own + count + 1);
    for (ptrdiff_t i = 0; i < count; i++) {
        fastopt_tensor *t = &own[i];
        if (!fastopt_read_struct(t, sizeof *t, theirs + i * sizes.tensor, sizes.tensor) ||
            (t->options && !fastopt_read_struct(&options[i], sizeof *options, t->options, sizes.options)))
            goto end;
        t->options = t->options ? &options[i] : NULL;
        t->engine.k = moved(t->engine.k, theirs, sizes.tensor, own, sizeof *own, count);
    }
    status = operation(own, count, argument);
    for (ptrdiff_t i = 0; i < count; i++) {
        fastopt_tensor *t = &own[i];
        t->options = ((fastopt_tensor *)(theirs + i * sizes.tensor))->options;
        t->engine.k = moved(t->engine.k, own, sizeof *own, theirs, sizes.tensor, count);
        fastopt_write_struct(theirs + i * sizes.tensor, sizes.tensor, t, sizeof *t);
    }
end:
    free(own);
    return status;
}
