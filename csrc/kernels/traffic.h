/* The memory traffic of a rule: reads and writes the same streams, with one addition for each.  Each addition uses the
 * result of the previous one, so that no compiler splits the loop. */

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

/* Buffers in other formats are moved as words, a part of each buffer in turn. */
static void FN(move)(const fastopt_stream *streams, int count, ptrdiff_t begin, ptrdiff_t end)
{
    uint32_t sum = 0;
    volatile uint32_t read; /* so that the compiler keeps the reads of read-only streams */
    for (ptrdiff_t first = begin, past; first < end; first = past) {
        past = end - first < 4 * GROUP ? end : first + 4 * GROUP;
        for (int i = 0; i < count; i++) {
            const fastopt_stream *s = &streams[i];
            const ptrdiff_t from = first / s->group * s->bytes, to = (past + s->group - 1) / s->group * s->bytes;
            char *restrict memory = s->memory + from;
            const ptrdiff_t words = (to - from) / (ptrdiff_t)sizeof sum;
            uint32_t word;
            for (ptrdiff_t k = 0; k < words && s->is_read_only; k++) {
                memcpy(&word, memory + k * (ptrdiff_t)sizeof word, sizeof word);
                sum += word;
            }
            for (ptrdiff_t k = 0; k < words && !s->is_read_only; k++) {
                memcpy(&word, memory + k * (ptrdiff_t)sizeof word, sizeof word);
                word++;
                memcpy(memory + k * (ptrdiff_t)sizeof word, &word, sizeof word);
            }
        }
    }
    read = sum;
    (void)read;
}
