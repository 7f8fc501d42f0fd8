/* formats.def as data. */
#include "formats.h"

#define FORMAT(name, format, ...) _Static_assert((int)FORMAT_##name == (int)FASTOPT_##format, "the order of rows");
#include "formats.def"
#undef FORMAT

const fastopt_format_info fastopt_format_infos[FORMATS] = {
    [FASTOPT_NATIVE] = {.name = "native", .group = 1, .of_p = 1, .of_g = 1, .of_signed = 1, .of_nonnegative = 1},
#define FORMAT(name_, format, bytes_, rest_bytes_, group_, rounds_, ...)                                               \
    [FASTOPT_##format] = {                                                                                             \
        .name = #name_, .bytes = bytes_, .rest_bytes = rest_bytes_, .group = group_, .rounds = rounds_, __VA_ARGS__},
#include "formats.def"
#undef FORMAT
};

const fastopt_format_info *fastopt_format_at(int format)
{
    return format >= 0 && format < FORMATS ? &fastopt_format_infos[format] : NULL;
}
