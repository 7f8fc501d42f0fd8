/* The numbers of elements that kernels process at a time.  They fix the order of sums, and so the bits of results. */
#ifndef FASTOPT_SIZES_H
#define FASTOPT_SIZES_H

enum {
    BLOCK = 1024, /* elements summed, or loaded, at a time */
    STRIP = 384,  /* elements updated at a time: with 4 KB each, parameter, gradient, state, averages and scratch would
                     fill all ways of an L1 cache; strips of 768 floats were slower from main memory */
    LANES = 16,   /* partial sums of a block */

    TILE = 64 * 1024,
    TILE_ROWS = 64, /* at least, so that results of columns take little memory */
    TILE_COLUMNS = 4096,
    SPAN = 512, /* columns that a pass visits at a time: they and their results fit into the L1 cache */

    LINE = 64,           /* bytes of a cache line */
    ROWS_AHEAD = 8,      /* how many rows ahead of the update a row is prefetched */
    FETCHED_BYTES = 1024 /* prefetched of each row; the hardware prefetcher loads the rest */
};

#endif
