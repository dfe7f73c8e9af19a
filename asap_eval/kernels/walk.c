/* rows = rows (alpha A + (1 - alpha) I), in place, of many small fp32 walks, one after another in
 * the cache.
 *
 * A task is some rows of one walk; its map A is packed for it. A block of rows is read by all
 * panels of the map before the results, gathered beside, take its place.
 */

#include "tiles.h"

enum { BLOCK = 4 * TILE }; /* rows in flight: they stay in the first cache, and so does a panel */

struct walk {
    float *rows;       /* [count, M, N], contiguous */
    const float *maps; /* [count, N, N], contiguous */
    float *workspace;  /* threads times walk_workspace() floats, 64-byte aligned */
    int64_t count, M, N, parts; /* parts: tasks of one walk */
    int32_t threads;
    float alpha;
};

/* Floats that one thread needs; a multiple of 16. */
int64_t walk_workspace(int64_t N) { return rounded(N, PANEL) * (N + BLOCK); }

/* rows = results + stay rows */
INLINE void blend(float *rows, const float *results, int64_t N, float stay) {
    for (int64_t c = 0; c < N; c++) rows[c] = results[c] + stay * rows[c];
}

static void run(const struct walk *call, int64_t task, float *memory) {
    const int64_t N = call->N, which = task / call->parts, part = task % call->parts;
    const int64_t share = rounded((call->M + call->parts - 1) / call->parts, TILE);
    const int64_t first = part * share, stride = rounded(N, PANEL);
    const int64_t end = first + share < call->M ? first + share : call->M;
    float *panels = memory, *results = memory + stride * N; /* [BLOCK, stride] */
    float weights[TILE];

    if (first >= end) return;
    for (int row = 0; row < TILE; row++) weights[row] = call->alpha;
    pack_rows(panels, call->maps + which * N * N, N, N, N);
    for (int64_t row = first; row < end; row += BLOCK) {
        const int64_t rows = end - row < BLOCK ? end - row : BLOCK;
        float *block = call->rows + (which * call->M + row) * N;
        for (int64_t c = 0; c < N; c += PANEL)
            for (int64_t at = 0; at < rows; at += TILE)
                output_tile(rows - at, block + at * N, N, panels + c * N, N, weights,
                            results + at * stride + c, stride, PANEL);
        for (int64_t at = 0; at < rows; at++)
            blend(block + at * N, results + at * stride, N, 1 - call->alpha);
    }
}

void walk(const struct walk *call) {
    const int64_t room = walk_workspace(call->N);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads)
    for (int64_t task = 0; task < call->count * call->parts; task++)
        run(call, task, call->workspace + room * omp_get_thread_num());
}
