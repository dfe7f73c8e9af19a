/* fp32 attention over packed ragged sequences, with maps of the probabilities on request.
 *
 * T tokens of all images lie end to end; image i owns tokens starts[i] .. starts[i] + lengths[i].
 * H heads, d head width, N tokens of the image at hand.
 *
 *     S = scale Q K^T (+ bias of each key),   P = softmax(S),   out = P V,   map = P or its mean
 *
 * A task is some rows of one image, through all heads: keys and values of one head are packed once,
 * scores live in the cache between the two products, and the mean over heads gathers in place.
 * How a row is computed depends neither on the task's other rows nor on other images, so a batch
 * equals its images one by one bit for bit, with any number of threads.
 *
 * Scores are kept as logarithms to base 2, so that the exponential needs no reduction by ln 2.
 */

#include <math.h>

#include "tiles.h"

enum { BLOCK = 48 }; /* rows whose scores exist at a time */

struct task {
    int64_t start, length;     /* tokens of the image */
    int64_t first_row, end_row; /* rows of this task, counted from the image's start */
    int64_t slot;              /* which map the image writes; -1: none */
};

struct call {
    const float *q, *k, *v; /* [T, H, d], last dimension contiguous */
    int64_t q_token, q_head, k_token, k_head, v_token, v_head; /* strides in floats */
    const float *bias;      /* [T], added to the logits of each key, or NULL */
    float *out;             /* [T, H, d], contiguous */
    float *maps;            /* [b, longest, longest], or [b, H, longest, longest]; may be NULL */
    float *workspace;       /* threads times packed_attention_workspace() floats, 64-byte aligned */
    const struct task *tasks;
    int64_t tasks_count, longest, most_tokens, H, d;
    int32_t every_head, threads;
    float scale;
};

/* Memory of one thread. */
struct room {
    float *keys;   /* [N / PANEL, d, PANEL], keys past N zero */
    float *values; /* [d / PANEL, N, PANEL], columns past d zero */
    float *scores; /* [BLOCK, stride] */
    float *bias;   /* [stride], -inf past N */
    int64_t stride;
};

INLINE v8 larger(v8 a, v8 b) {
#ifdef __AVX__
    return __builtin_ia32_maxps256(a, b);
#else
    v8i first = a > b;
    return (v8)(((v8i)a & first) | ((v8i)b & ~first));
#endif
}

INLINE float largest_of(v8 x) {
    float top = x[0];
    for (int lane = 1; lane < LANES; lane++) top = x[lane] > top ? x[lane] : top;
    return top;
}

/* 2^x for x <= 0 within 1 ulp; 0 below 2^-126 and for -inf; NaN stays NaN. */
INLINE v8 exp2_of(v8 x) {
    const v8 shift = splat(12582912.0f); /* 1.5 * 2^23: the sum's last bits hold x as an integer */
    v8 shifted = x + shift;
    v8 r = x - (shifted - shift); /* exact, within [-1/2, 1/2] */
    v8 y = splat(0x1.470b4ap-13f); /* minimax of the relative error of 2^r, y(0) = 1 */
    y = y * r + splat(0x1.5f7276p-10f);
    y = y * r + splat(0x1.3b270ep-7f);
    y = y * r + splat(0x1.c6ae72p-5f);
    y = y * r + splat(0x1.ebfbe2p-3f);
    y = y * r + splat(0x1.62e432p-1f);
    y = y * r + splat(1.0f);
    v8i bits = (v8i)y + ((v8i)shifted << 23); /* into the exponent */
    return (v8)(bits & ~(v8i)(x < splat(-126.0f)));
}

/* ---- scores ---- */

/* scores = scale a panel + bias, and the lanes' largest so far. */
INLINE void score_rows(int rows, const float *q, int64_t q_stride, const float *panel, int64_t d,
                       float scale, const float *bias, float *scores, int64_t stride, v8 *tops) {
    v8 sums[TILE][2];
    product(sums, rows, q, q_stride, panel, d);
    v8 left = load(bias), right = load(bias + LANES);
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        v8 x = sums[row][0] * splat(scale) + left, y = sums[row][1] * splat(scale) + right;
        store(scores + row * stride, x);
        store(scores + row * stride + LANES, y);
        tops[row] = larger(tops[row], larger(x, y));
    }
}

static void score_tile(int64_t rows, const float *q, int64_t q_stride, const float *panel,
                       int64_t d, float scale, const float *bias, float *scores, int64_t stride,
                       v8 *tops) {
    FOR_ROWS(rows, score_rows, q, q_stride, panel, d, scale, bias, scores, stride, tops)
}

/* ---- one block of rows of one head ---- */

/* Turns a row of scores into exponentials; returns 1 / their sum. */
INLINE float exponentials(float *row, int64_t stride, v8 lane_tops) {
    v8 top = splat(largest_of(lane_tops)), even = splat(0), odd = splat(0);
    for (int64_t key = 0; key < stride; key += PANEL) {
        v8 left = exp2_of(load(row + key) - top), right = exp2_of(load(row + key + LANES) - top);
        store(row + key, left);
        store(row + key + LANES, right);
        even += left;
        odd += right;
    }
    return 1 / sum_of(even + odd);
}

/* map = weight p, or added to what is there. */
INLINE void write_map(float *map, const float *p, int64_t N, float weight, int add) {
    int64_t key = 0;
    for (; key + LANES <= N; key += LANES) {
        v8 x = load(p + key) * splat(weight);
        store(map + key, add ? load(map + key) + x : x);
    }
    for (; key < N; key++) map[key] = p[key] * weight + (add ? map[key] : 0);
}

/* Rows first .. first + rows of the task's image, head h. */
static void attend_block(const struct call *call, const struct task *task, const struct room *room,
                         int64_t h, int64_t first, int64_t rows) {
    const int64_t N = task->length, H = call->H, d = call->d, stride = room->stride;
    const float *q = call->q + (task->start + first) * call->q_token + h * call->q_head;
    float *out = call->out + ((task->start + first) * H + h) * d;
    v8 tops[BLOCK];
    float weights[BLOCK];

    for (int64_t row = 0; row < rows; row++) tops[row] = splat(-INFINITY);
    for (int64_t key = 0; key < N; key += PANEL)
        for (int64_t row = 0; row < rows; row += TILE)
            score_tile(rows - row, q + row * call->q_token, call->q_token, room->keys + key * d, d,
                       call->scale * 1.44269504f, room->bias + key,
                       room->scores + row * stride + key, stride, tops + row);

    for (int64_t row = 0; row < rows; row++)
        weights[row] = exponentials(room->scores + row * stride, stride, tops[row]);

    if (task->slot >= 0) {
        const int64_t area = call->longest * call->longest;
        const int64_t place = call->every_head ? task->slot * H + h : task->slot;
        float *map = call->maps + place * area + first * call->longest;
        const float share = call->every_head ? 1 : 1 / (float)H;
        for (int64_t row = 0; row < rows; row++)
            write_map(map + row * call->longest, room->scores + row * stride, N,
                      weights[row] * share, h > 0 && !call->every_head);
    }

    for (int64_t c = 0; c < d; c += PANEL)
        for (int64_t row = 0; row < rows; row += TILE)
            output_tile(rows - row, room->scores + row * stride, stride, room->values + c * N, N,
                        weights + row, out + row * H * d + c, H * d, d - c);
}

/* ---- tasks ---- */

/* Zeros beside the task's rows, and below them if they are the image's last. */
static void clear_padding(float *map, const struct task *task, int64_t longest) {
    const int64_t N = task->length;
    if (N == longest) return;
    for (int64_t row = task->first_row; row < task->end_row; row++)
        memset(map + row * longest + N, 0, (longest - N) * sizeof(float));
    if (task->end_row == N) memset(map + N * longest, 0, (longest - N) * longest * sizeof(float));
}

static int64_t room_for(struct room *room, float *memory, int64_t N, int64_t d) {
    room->stride = rounded(N, PANEL);
    room->keys = memory;
    room->values = room->keys + room->stride * d;
    room->scores = room->values + room->stride * rounded(d, PANEL);
    room->bias = room->scores + BLOCK * room->stride;
    return room->bias + room->stride - memory;
}

static void run_task(const struct call *call, const struct task *task, float *memory) {
    const int64_t N = task->length, d = call->d;
    struct room room;
    room_for(&room, memory, N, d);
    for (int64_t key = 0; key < room.stride; key++) {
        float own = call->bias && key < N ? call->bias[task->start + key] * 1.44269504f : 0;
        room.bias[key] = key < N ? own : -INFINITY;
    }
    if (task->slot >= 0) {
        const int64_t maps = call->every_head ? call->H : 1, area = call->longest * call->longest;
        for (int64_t map = task->slot * maps; map < (task->slot + 1) * maps; map++)
            clear_padding(call->maps + map * area, task, call->longest);
    }
    for (int64_t h = 0; h < call->H; h++) {
        const float *k = call->k + task->start * call->k_token + h * call->k_head;
        const float *v = call->v + task->start * call->v_token + h * call->v_head;
        pack_columns(room.keys, k, call->k_token, N, d);
        pack_rows(room.values, v, call->v_token, N, d);
        for (int64_t row = task->first_row; row < task->end_row; row += BLOCK) {
            const int64_t left = task->end_row - row;
            attend_block(call, task, &room, h, row, left < BLOCK ? left : BLOCK);
        }
    }
}

/* Floats that one thread needs for images of up to N tokens; a multiple of 16. */
int64_t packed_attention_workspace(int64_t N, int64_t d) {
    struct room room;
    float *none = 0;
    return rounded(room_for(&room, none, N, d), 16);
}

void packed_attention(const struct call *call) {
    const int64_t room = packed_attention_workspace(call->most_tokens, call->d);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads)
    for (int64_t i = 0; i < call->tasks_count; i++)
        run_task(call, call->tasks + i, call->workspace + room * omp_get_thread_num());
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

/* What compiled this file and for which vectors, for records. */
const char *packed_attention_build(void) {
    return
#if defined(__clang__)
        "clang " TEXT(__clang_major__) "." TEXT(__clang_minor__)
#else
        "gcc " TEXT(__GNUC__) "." TEXT(__GNUC_MINOR__)
#endif
#if defined(__AVX512F__)
        ", AVX-512";
#elif defined(__AVX2__) && defined(__FMA__)
        ", AVX2";
#elif defined(__AVX__)
        ", AVX";
#elif defined(__ARM_NEON)
        ", NEON";
#else
        ", no vector extension known here";
#endif
}
