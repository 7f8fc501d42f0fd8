/* How buffers may be stored: the rows of formats.def. */
#ifndef FASTOPT_FORMATS_H
#define FASTOPT_FORMATS_H

#include "../include/fastopt.h"

#include <string.h>

enum {
    FORMAT_native,
#define FORMAT(name, ...) FORMAT_##name,
#include "formats.def"
#undef FORMAT
    FORMATS
};

enum { GROUP = 64 }; /* elements that share a scale */

extern const fastopt_format_info fastopt_format_infos[FORMATS];

/* A buffer: the elements of a tensor's p, g or state, and their second parts where the format has them. */
typedef struct {
    void *data, *rest;
    fastopt_format format;
} fastopt_buffer;

/* Which way a block is copied: from the memory of the caller, or to it. */
typedef enum { LOAD, STORE } fastopt_direction;

/* Whether all buffers of a tensor are native. */
static inline int fastopt_is_native(const fastopt_tensor *tensor)
{
    uint64_t formats;
    _Static_assert(sizeof formats == sizeof tensor->formats, "compared as one number");
    memcpy(&formats, &tensor->formats, sizeof formats);
    return formats == 0;
}

#endif
