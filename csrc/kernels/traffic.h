/* The memory traffic of a rule: the same streams are read and written, with one addition each.  Each addition reads the
 * result of the one before, so that no compiler splits the loop. */

static void FN(traffic0)(T *restrict p, const T *restrict g, T *const *restrict s, ptrdiff_t n)
{
    (void)s;
    for (ptrdiff_t i = 0; i < n; i++)
        p[i] += g[i];
}

static void FN(traffic1)(T *restrict p, const T *restrict g, T *const *restrict s, ptrdiff_t n)
{
    T *restrict a = s[0];
    for (ptrdiff_t i = 0; i < n; i++) {
        a[i] += g[i];
        p[i] += a[i];
    }
}

static void FN(traffic2)(T *restrict p, const T *restrict g, T *const *restrict s, ptrdiff_t n)
{
    T *restrict a = s[0], *restrict b = s[1];
    for (ptrdiff_t i = 0; i < n; i++) {
        a[i] += g[i];
        b[i] += a[i];
        p[i] += b[i];
    }
}

static void FN(traffic3)(T *restrict p, const T *restrict g, T *const *restrict s, ptrdiff_t n)
{
    T *restrict a = s[0], *restrict b = s[1], *restrict c = s[2];
    for (ptrdiff_t i = 0; i < n; i++) {
        a[i] += g[i];
        b[i] += a[i];
        c[i] += b[i];
        p[i] += c[i];
    }
}

static void FN(traffic4)(T *restrict p, const T *restrict g, T *const *restrict s, ptrdiff_t n)
{
    T *restrict a = s[0], *restrict b = s[1], *restrict c = s[2], *restrict d = s[3];
    for (ptrdiff_t i = 0; i < n; i++) {
        a[i] += g[i];
        b[i] += a[i];
        c[i] += b[i];
        d[i] += c[i];
        p[i] += d[i];
    }
}

static void FN(traffic)(void *p, const void *g, void *const *state, int n_state, ptrdiff_t begin, ptrdiff_t end)
{
    void (*const loops[FASTOPT_MAX_STATE + 1])(T *restrict, const T *restrict, T *const *restrict, ptrdiff_t) = {
        FN(traffic0), FN(traffic1), FN(traffic2), FN(traffic3), FN(traffic4)};
    T *s[FASTOPT_MAX_STATE];
    for (int i = 0; i < n_state; i++)
        s[i] = (T *)state[i] + begin;
    loops[n_state]((T *)p + begin, (const T *)g + begin, s, end - begin);
}
