/* A character model, trained from C: predicts the next character of a text from the CONTEXT characters before it.
 *
 *     charlm TEXT STEPS CHECKPOINT
 *
 * trains until STEPS steps are made and writes the checkpoint.  If the checkpoint exists, the run continues from it
 * with the same bits.  The model is an embedding, a hidden layer with tanh and a softmax (Bengio et al. 2003).
 *
 * Parameters are bfloat16.  The model converts them to float and computes in float.  The optimizer keeps 16 more bits
 * of each parameter in a second array (FASTOPT_SPLIT16), so that small updates are not lost.  The rule is AdamW with
 * clipping by norm. */
#include <fastopt.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHARS = 128, CONTEXT = 8, WIDTH = 16, INPUT = CONTEXT * WIDTH, HIDDEN = 64, BATCH = 32, WARMUP = 20 };
enum { EMBED, W1, B1, W2, B2, PARAMETERS };
enum {
    EMBED_SIZE = CHARS * WIDTH,
    W1_SIZE = INPUT * HIDDEN,
    W2_SIZE = HIDDEN * CHARS,
    ALL = EMBED_SIZE + W1_SIZE + HIDDEN + W2_SIZE + CHARS
};
static const int sizes[PARAMETERS] = {EMBED_SIZE, W1_SIZE, HIDDEN, W2_SIZE, CHARS};

/* All that a run needs to continue, in one struct, which is the checkpoint. */
static struct {
    char version[16];
    int64_t step;
    uint64_t random;
    double loss; /* a running mean */
    uint16_t params[ALL], rests[ALL];
    float m[ALL], v[ALL];
} run = {.random = 1};

static float weights[ALL], grads[ALL]; /* the parameters as floats, in the same order, and their gradients */

static void fail(const char *message)
{
    fprintf(stderr, "charlm: %s\n", message);
    exit(1);
}

/* A number in [0, n), by the xorshift generator of Marsaglia. */
static int pick(int n)
{
    run.random ^= run.random << 13;
    run.random ^= run.random >> 7;
    run.random ^= run.random << 17;
    return (int)(run.random >> 33) % n;
}

/* ---- The model ---- */

/* The loss of one character, and its gradients, which are added to `grads`. */
static float forward_backward(const unsigned char *context, int target)
{
    const float *w1 = weights + EMBED_SIZE, *b1 = w1 + W1_SIZE, *w2 = b1 + HIDDEN, *b2 = w2 + W2_SIZE;
    float *d_w1 = grads + EMBED_SIZE, *d_b1 = d_w1 + W1_SIZE, *d_w2 = d_b1 + HIDDEN, *d_b2 = d_w2 + W2_SIZE;
    float x[INPUT], h[HIDDEN], p[CHARS], d_h[HIDDEN] = {0}, d_x[INPUT] = {0};

    for (int i = 0; i < CONTEXT; i++)
        memcpy(x + i * WIDTH, weights + context[i] * WIDTH, WIDTH * sizeof *x);
    memcpy(h, b1, sizeof h);
    for (int i = 0; i < INPUT; i++)
        for (int j = 0; j < HIDDEN; j++)
            h[j] += x[i] * w1[i * HIDDEN + j];
    memcpy(p, b2, sizeof p);
    for (int j = 0; j < HIDDEN; j++) {
        h[j] = tanhf(h[j]);
        for (int c = 0; c < CHARS; c++)
            p[c] += h[j] * w2[j * CHARS + c];
    }
    float largest = p[0], sum = 0;
    for (int c = 1; c < CHARS; c++)
        largest = fmaxf(largest, p[c]);
    for (int c = 0; c < CHARS; c++)
        sum += p[c] = expf(p[c] - largest);
    for (int c = 0; c < CHARS; c++)
        p[c] /= sum;
    const float loss = -logf(p[target]);

    p[target] -= 1; /* the gradient of the logits */
    for (int c = 0; c < CHARS; c++)
        d_b2[c] += p[c];
    for (int j = 0; j < HIDDEN; j++) {
        for (int c = 0; c < CHARS; c++) {
            d_w2[j * CHARS + c] += h[j] * p[c];
            d_h[j] += w2[j * CHARS + c] * p[c];
        }
        d_h[j] *= 1 - h[j] * h[j];
        d_b1[j] += d_h[j];
    }
    for (int i = 0; i < INPUT; i++)
        for (int j = 0; j < HIDDEN; j++) {
            d_w1[i * HIDDEN + j] += x[i] * d_h[j];
            d_x[i] += w1[i * HIDDEN + j] * d_h[j];
        }
    for (int i = 0; i < INPUT; i++)
        grads[context[i / WIDTH] * WIDTH + i % WIDTH] += d_x[i];
    return loss;
}

static void initialize(void)
{
    float *w = weights;
    const float scale[PARAMETERS] = {0.1f, 1 / sqrtf(INPUT), 0, 1 / sqrtf(HIDDEN), 0};
    for (int k = 0; k < PARAMETERS; k++)
        for (int i = 0; i < sizes[k]; i++)
            *w++ = scale[k] * (pick(20001) - 10000) / 10000.0f;
    if (fastopt_encode(FASTOPT_SPLIT16, weights, ALL, run.params, run.rests) != FASTOPT_OK)
        fail("the parameters cannot be stored");
    strcpy(run.version, FASTOPT_VERSION);
}

/* ---- Checkpoints ---- */

static int load(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    if (fread(&run, sizeof run, 1, file) != 1 || fgetc(file) != EOF || strcmp(run.version, FASTOPT_VERSION))
        fail("the checkpoint is not of this program");
    fclose(file);
    return 1;
}

/* The new file takes the place of the old one when it is complete. */
static void save(const char *path)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part)
        fail("the path of the checkpoint is too long");
    FILE *file = fopen(part, "wb");
    if (!file || fwrite(&run, sizeof run, 1, file) != 1 || fclose(file) || rename(part, path))
        fail("the checkpoint cannot be written");
}

/* ---- Training ---- */

int main(int argc, char **argv)
{
    static unsigned char text[1 << 20];
    if (argc != 4)
        fail("usage: charlm TEXT STEPS CHECKPOINT");
    FILE *file = fopen(argv[1], "rb");
    if (!file)
        fail("the text cannot be read");
    const int length = (int)fread(text, 1, sizeof text, file);
    fclose(file);
    if (length <= CONTEXT)
        fail("the text is too short");
    for (int i = 0; i < length; i++)
        text[i] %= CHARS;
    if (!load(argv[3]))
        initialize();

    double hyper[] = {0, 0.9, 0.99, 1e-8}; /* lr, beta1, beta2, eps */
    const fastopt_options decayed = {.decoupled_decay = 0.01};
    fastopt_tensor tensors[PARAMETERS];
    for (int k = 0, at = 0; k < PARAMETERS; at += sizes[k++])
        tensors[k] = (fastopt_tensor){.rule = fastopt_find_rule("adam"),
                                      .dtype = FASTOPT_FLOAT32,
                                      .formats = {.p = FASTOPT_SPLIT16},
                                      .n = sizes[k],
                                      .p = run.params + at,
                                      .p_rest = run.rests + at,
                                      .g = grads + at,
                                      .state = {run.m + at, run.v + at},
                                      .hyper = hyper,
                                      .options = k == W1 || k == W2 ? &decayed : NULL};

    for (const int64_t steps = atoll(argv[2]); run.step < steps;) {
        for (int i = 0; i < ALL; i++) { /* a bfloat16 is the upper half of a float */
            const uint32_t bits = (uint32_t)run.params[i] << 16;
            memcpy(&weights[i], &bits, sizeof bits);
        }
        double loss = 0;
        for (int b = 0; b < BATCH; b++) {
            const int at = pick(length - CONTEXT);
            loss += forward_backward(text + at, text[at + CONTEXT]) / BATCH;
        }
        run.step++;
        hyper[0] = 1e-2 * fmin((double)run.step / WARMUP, sqrt((double)WARMUP / (double)run.step));
        for (int k = 0; k < PARAMETERS; k++)
            tensors[k].step = run.step;
        fastopt_call call = {.num_threads = 2, .grad_scale = BATCH, .clip_norm = 1, .zero_grads = 1};
        const fastopt_status status = fastopt_step_with(tensors, PARAMETERS, &call);
        if (status != FASTOPT_OK)
            fail(fastopt_status_text(status));

        run.loss = run.step == 1 ? loss : 0.95 * run.loss + 0.05 * loss;
        if (run.step % 50 == 0 || run.step == 1)
            printf("step %4d  loss %.4f  norm of the gradient %.3f\n", (int)run.step, run.loss, call.grad_norm);
    }
    save(argv[3]);
    return 0;
}
