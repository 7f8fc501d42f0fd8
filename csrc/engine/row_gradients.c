/* Gradients of rows: rows that occur more than once are summed, so that a step updates each row once. */
#include "../include/fastopt.h"
#include "../platform.h"

#include <stdlib.h>
#include <string.h>

/* A hash table with linear probing, at most a quarter full, so that the CPU predicts that the first probe succeeds. */
ptrdiff_t fastopt_unique_rows(const int64_t *rows, ptrdiff_t count, int64_t limit, int64_t *unique, ptrdiff_t *places)
{
    int bits = 4;
    while ((ptrdiff_t)1 << bits < 4 * count)
        bits++;
    const size_t slots = (size_t)1 << bits;
    ptrdiff_t *table = malloc(slots * sizeof *table);
    if (!table)
        return FASTOPT_ROWS_NO_MEMORY;
    memset(table, 0xff, slots * sizeof *table); /* -1: empty */
    ptrdiff_t found = 0;
    for (ptrdiff_t i = 0; i < count && found >= 0; i++) {
        /* Fibonacci hashing: the high bits of the product depend on all bits of the row. */
        size_t slot = (size_t)((uint64_t)rows[i] * UINT64_C(0x9e3779b97f4a7c15) >> (64 - bits));
        while (table[slot] >= 0 && unique[table[slot]] != rows[i])
            slot = (slot + 1) & (slots - 1);
        if (rows[i] < 0 || rows[i] >= limit) {
            found = FASTOPT_ROWS_BEYOND;
        } else {
            if (table[slot] < 0) {
                unique[found] = rows[i];
                table[slot] = found++;
            }
            places[i] = table[slot];
        }
    }
    free(table);
    return found;
}

void fastopt_row_gradients(fastopt_dtype dtype, const void *values, const ptrdiff_t *places, ptrdiff_t count,
                           ptrdiff_t row_length, const void **gradients, void *sums)
{
    const size_t row_size = (size_t)row_length * (dtype == FASTOPT_FLOAT32 ? sizeof(float) : sizeof(double));
    const char *const first_sum = sums;
    char *next_sum = sums;
    const uint64_t mode = flush_begin();
    for (ptrdiff_t i = 0; i < count; i++) {
        const void *row = (const char *)values + (size_t)i * row_size, **gradient = &gradients[places[i]];
        if (!*gradient) {
            *gradient = row;
            continue;
        }
        if ((uintptr_t)*gradient - (uintptr_t)first_sum >= (uintptr_t)(next_sum - first_sum)) {
            memcpy(next_sum, *gradient, row_size);
            *gradient = next_sum;
            next_sum += row_size;
        }
#define ADD(T)                                                                                                         \
    for (ptrdiff_t k = 0; k < row_length; k++)                                                                         \
        ((T *)*gradient)[k] += ((const T *)row)[k];
        if (dtype == FASTOPT_FLOAT32) {
            ADD(float)
        } else {
            ADD(double)
        }
#undef ADD
    }
    flush_end(mode);
}
