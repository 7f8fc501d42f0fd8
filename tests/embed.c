/* A program in C and C++ that makes steps of Adam and writes the parameter to the standard output. */
#include "fastopt.h"

#include <stdio.h>
#include <string.h>

enum { N = 1000 };

int main(void)
{
    static float p[N], g[N], m[N], v[N];
    const double hyper[] = {1e-2, 0.9, 0.999, 1e-8};
    fastopt_tensor t;
    memset(&t, 0, sizeof t);
    t.rule = fastopt_find_rule("adam");
    t.dtype = FASTOPT_FLOAT32;
    t.n = N;
    t.p = p;
    t.g = g;
    t.state[0] = m;
    t.state[1] = v;
    t.hyper = hyper;
    for (t.step = 1; t.step <= 5; t.step++) {
        for (int i = 0; i < N; i++)
            g[i] = (float)((i + t.step) % 7 - 3);
        const fastopt_status status = fastopt_step(&t, 1, 2);
        if (status != FASTOPT_OK)
            return (int)status;
    }
    return fwrite(p, sizeof p, 1, stdout) != 1;
}
