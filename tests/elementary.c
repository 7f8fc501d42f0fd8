/* The functions of csrc/math/exact.h and csrc/kernels/powers.h, and the functions of elements that rules of one's own
 * have. Reads pairs of numbers of one type and writes their results: elementary FUNCTION. */
#include "math/exact.h"

#include <stdio.h>

#define T            float
#define BITS         uint32_t
#define FN(name)     name##_float32
#define SMALLEST     FLT_MIN
#define LARGEST      FLT_MAX
#define EPSILON      FLT_EPSILON
#define DIGITS       23
#define UNIT         0x1p-15
#define TERMS        8
#define LN_2_HIGH    0.693359375f
#define LN_2_LOW     -2.12194440054690582767e-04f
#define FIRST_EXP    -87.33654022216797f
#define LAST_EXP     88.72283172607422f
#define LARGEST_SIZE 10
#include "elementary.inl.h"
#undef T
#undef BITS
#undef FN
#undef SMALLEST
#undef LARGEST
#undef EPSILON
#undef DIGITS
#undef UNIT
#undef TERMS
#undef LN_2_HIGH
#undef LN_2_LOW
#undef FIRST_EXP
#undef LAST_EXP
#undef LARGEST_SIZE

#define T            double
#define BITS         uint64_t
#define FN(name)     name##_float64
#define SMALLEST     DBL_MIN
#define LARGEST      DBL_MAX
#define EPSILON      DBL_EPSILON
#define DIGITS       52
#define UNIT         0x1p-40
#define TERMS        13
#define LN_2_HIGH    6.93147180369123816490e-01
#define LN_2_LOW     1.90821492927058770002e-10
#define FIRST_EXP    -708.3964185322641
#define LAST_EXP     709.782712893384
#define LARGEST_SIZE 20
#include "elementary.inl.h"

static double exp_scalar(double x, double unused)
{
    (void)unused;
    return fastopt_exp(x);
}

static double log_scalar(double x, double unused)
{
    (void)unused;
    return fastopt_log(x);
}

typedef float of_floats(float x, float y);
typedef double of_doubles(double x, double y);
static const struct {
    const char *name;
    of_floats *float32;
    of_doubles *float64;
} functions[] = {
    {.name = "exp_float32", .float32 = exp_float32},   {.name = "exp_float64", .float64 = exp_float64},
    {.name = "log_float32", .float32 = log_float32},   {.name = "log_float64", .float64 = log_float64},
    {.name = "tanh_float32", .float32 = tanh_float32}, {.name = "tanh_float64", .float64 = tanh_float64},
    {.name = "power_float32", .float32 = pow_float32}, {.name = "power_float64", .float64 = pow_float64},
    {.name = "exp_scalar", .float64 = exp_scalar},     {.name = "log_scalar", .float64 = log_scalar},
    {.name = "power_scalar", .float64 = fastopt_pow},
};

int main(int count, char **arguments)
{
    for (size_t i = 0; count == 2 && i < sizeof functions / sizeof *functions; i++) {
        if (strcmp(functions[i].name, arguments[1]))
            continue;
        float x32[2];
        double x64[2];
        while (functions[i].float32 && fread(x32, sizeof x32, 1, stdin)) {
            const float result = functions[i].float32(x32[0], x32[1]);
            fwrite(&result, sizeof result, 1, stdout);
        }
        while (functions[i].float64 && fread(x64, sizeof x64, 1, stdin)) {
            const double result = functions[i].float64(x64[0], x64[1]);
            fwrite(&result, sizeof result, 1, stdout);
        }
        return 0;
    }
    return 1;
}
