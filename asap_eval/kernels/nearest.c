/* The most similar target of every source token by cosine, image by image, and what becomes of the
 * tokens when the most similar pairs are merged.
 *
 * Tokens are means over H heads, brought to length 1. Targets are packed as the columns of a
 * product whose rows are the sources; of its tiles only the largest value of a row is kept, so that
 * similarities exist in registers alone. Among equals the first counts, and NaN is above all, as in
 * torch. An image's result has the same bits in any batch, on any thread.
 */

#include <math.h>

#include "tiles.h"

struct nearest {
    const float *x; /* [count, H, N, d], last dimension contiguous */
    int64_t x_image, x_head, x_token; /* strides in floats */
    const int64_t *sources, *targets; /* [count, S] and [count, T] tokens */
    int64_t sources_image, targets_image; /* strides; 0: the same tokens of every image */
    float *best;      /* [count, S] cosines */
    int64_t *partner; /* [count, S] places among the targets */
    float *workspace; /* threads times nearest_workspace() floats, 64-byte aligned */
    int64_t count, H, d, S, T;
    int32_t threads;
};

/* Floats that one thread needs; a multiple of 16. */
int64_t nearest_workspace(int64_t d, int64_t T) {
    const int64_t width = rounded(d, LANES);
    return rounded(rounded(T, PANEL) * (width + d) + TILE * width, 16);
}

/* A token's mean over heads with length 1, at least 1e-12 taken for its own; zeros past d. */
static void unit(float *to, const struct nearest *call, const float *token) {
    const int64_t d = call->d, H = call->H, width = rounded(d, LANES);
    v8 squares = splat(0);
    for (int64_t c = 0; c < width; c += LANES) {
        float sums[LANES] = {0};
        v8 sum;
        if (d - c >= LANES) {
            sum = load(token + c);
            for (int64_t h = 1; h < H; h++) sum += load(token + h * call->x_head + c);
        } else {
            for (int64_t h = 0; h < H; h++)
                for (int64_t lane = 0; lane < d - c; lane++)
                    sums[lane] += token[h * call->x_head + c + lane];
            sum = load(sums);
        }
        sum /= splat(H);
        squares += sum * sum;
        store(to + c, sum);
    }
    const float found = sqrtf(sum_of(squares)), length = found < 1e-12f ? 1e-12f : found;
    for (int64_t c = 0; c < width; c += LANES) store(to + c, load(to + c) / splat(length));
}

/* Lanes where x is above what was best so far. */
INLINE v8i above(v8 x, v8 best) { return (x > best) | ((x != x) & (best == best)); }

INLINE v8 chosen(v8i which, v8 yes, v8 no) {
    return (v8)(((v8i)yes & which) | ((v8i)no & ~which));
}

/* Keeps the better of each lane: targets first .. first + PANEL, those from T on left out. */
INLINE void search_rows(int rows, const float *a, int64_t width, const float *panel, int64_t d,
                        int32_t first, int32_t T, v8 best[TILE][2], v8i where[TILE][2]) {
    v8 sums[TILE][2];
    product(sums, rows, a, width, panel, d);
    const v8i lanes = {0, 1, 2, 3, 4, 5, 6, 7};
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const v8i target = lanes + (first + half * LANES), there = target < T;
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            const v8i better = above(sums[row][half], best[row][half]) & there;
            best[row][half] = chosen(better, sums[row][half], best[row][half]);
            where[row][half] = (target & better) | (where[row][half] & ~better);
        }
    }
}

static void search_tile(int64_t rows, const float *a, int64_t width, const float *panel, int64_t d,
                        int32_t first, int32_t T, v8 best[TILE][2], v8i where[TILE][2]) {
    FOR_ROWS(rows, search_rows, a, width, panel, d, first, T, best, where)
}

/* The best of a row's lanes; among equals the first target. */
static void settle(const v8 best[2], const v8i where[2], float *value, int64_t *partner) {
    float top = best[0][0];
    int32_t at = where[0][0];
    for (int i = 1; i < PANEL; i++) {
        const float x = best[i / LANES][i % LANES];
        const int32_t place = where[i / LANES][i % LANES];
        const int equal = x == top || (x != x && top != top);
        if (equal ? place < at : x > top || x != x) top = x, at = place;
    }
    *value = top;
    *partner = at;
}

static void search(const struct nearest *call, int64_t image, float *memory) {
    const int64_t d = call->d, S = call->S, T = call->T, width = rounded(d, LANES);
    const float *x = call->x + image * call->x_image;
    const int64_t *sources = call->sources + image * call->sources_image;
    const int64_t *targets = call->targets + image * call->targets_image;
    if (!S) return;
    float *panels = memory, *rows = panels + rounded(T, PANEL) * d; /* [TILE, width] */
    float *units = rows + TILE * width;                            /* [T, width] */

    for (int64_t at = 0; at < T; at++) unit(units + at * width, call, x + targets[at] * call->x_token);
    pack_columns(panels, units, width, T, d);
    for (int64_t row = 0; row < S; row += TILE) {
        const int64_t many = S - row < TILE ? S - row : TILE;
        v8 best[TILE][2];
        v8i where[TILE][2];
        for (int64_t at = 0; at < many; at++) {
            unit(rows + at * width, call, x + sources[row + at] * call->x_token);
            best[at][0] = best[at][1] = splat(-INFINITY);
            where[at][0] = where[at][1] = (v8i){T, T, T, T, T, T, T, T};
        }
        for (int64_t first = 0; first < T; first += PANEL)
            search_tile(many, rows, width, panels + first * d, d, first, T, best, where);
        for (int64_t at = 0; at < many; at++) {
            const int64_t place = image * S + row + at;
            settle(best[at], where[at], call->best + place, call->partner + place);
        }
    }
}

void nearest(const struct nearest *call) {
    const int64_t room = nearest_workspace(call->d, call->T);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads)
    for (int64_t image = 0; image < call->count; image++)
        search(call, image, call->workspace + room * omp_get_thread_num());
}

/* ---- merging the most similar pairs ---- */

struct pairs {
    const float *best; /* [count, S] of the tokens from `prefix` on, every second one */
    const int64_t *partner; /* [count, S] places among the tokens between them */
    int64_t *group; /* [count, N] slots: prefix, sources that are left, targets */
    int64_t *workspace; /* threads times 2 S */
    int64_t count, S, N, prefix, merged;
    int32_t source_first, by_order, threads; /* whether the first behind the prefix is a source;
                                                whether those left keep their order */
};

INLINE int before(float a, float b) { return a > b || (a != a && b == b); }

/* Indices by falling value, equal ones in their order: merges runs of doubling length. */
static const int64_t *falling(const float *value, int64_t count, int64_t *from, int64_t *to) {
    for (int64_t i = 0; i < count; i++) from[i] = i;
    for (int64_t run = 1; run < count; run *= 2) {
        for (int64_t start = 0; start < count; start += 2 * run) {
            const int64_t middle = start + run < count ? start + run : count;
            const int64_t end = middle + run < count ? middle + run : count;
            int64_t left = start, right = middle;
            for (int64_t i = start; i < end; i++) {
                const int second =
                    left == middle || (right < end && before(value[from[right]], value[from[left]]));
                to[i] = second ? from[right++] : from[left++];
            }
        }
        int64_t *swap = from;
        from = to, to = swap;
    }
    return from;
}

static void pair(const struct pairs *call, int64_t image, int64_t *memory) {
    const int64_t S = call->S, prefix = call->prefix, left = S - call->merged;
    const float *best = call->best + image * S;
    const int64_t *partner = call->partner + image * S;
    int64_t *group = call->group + image * call->N;
    int64_t *sources = group + prefix + !call->source_first;
    int64_t *targets = group + prefix + call->source_first;
    const int64_t *order = falling(best, S, memory, memory + S);

    for (int64_t i = 0; i < prefix; i++) group[i] = i;
    for (int64_t i = 0; i < call->N - prefix - S; i++) targets[2 * i] = prefix + left + i;
    for (int64_t i = 0; i < S; i++) sources[2 * i] = -1;
    for (int64_t i = 0; i < call->merged; i++)
        sources[2 * order[i]] = prefix + left + partner[order[i]];
    if (call->by_order) {
        int64_t slot = prefix;
        for (int64_t i = 0; i < S; i++)
            if (sources[2 * i] < 0) sources[2 * i] = slot++;
    } else
        for (int64_t i = 0; i < left; i++) sources[2 * order[call->merged + i]] = prefix + i;
}

void pairs(const struct pairs *call) {
#pragma omp parallel for schedule(static) num_threads(call->threads)
    for (int64_t image = 0; image < call->count; image++)
        pair(call, image, call->workspace + 2 * call->S * omp_get_thread_num());
}
