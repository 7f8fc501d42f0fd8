/* How many elements the kernels take at a time.  The sizes decide the order of sums, and so their bits. */
#ifndef FASTOPT_SIZES_H
#define FASTOPT_SIZES_H

enum {
    BLOCK = 1024, /* elements that are summed, or loaded, at a time */
    STRIP = 384,  /* elements that are updated at a time: of 4 KB each, parameter, gradient, state, averages and scratch
                     would fill all ways of an L1 cache */
    LANES = 16,   /* partial sums of a block */

    TILE = 64 * 1024,
    TILE_ROWS = 64, /* or more, so that the results for columns take little memory */
    TILE_COLUMNS = 4096,
    SPAN = 512, /* columns that a pass visits at a time: they and their results fit the L1 cache */

    LINE = 64,           /* bytes of a cache line */
    ROWS_AHEAD = 8,      /* rows are fetched so many before they are updated */
    FETCHED_BYTES = 1024 /* of each of them; the CPU foresees the rest */
};

#endif
