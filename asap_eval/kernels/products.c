/* out = factor left right, of many small fp32 matrices, one after another in the cache.
 *
 * A task is some rows of one product; its right matrix is packed for it.
 */

#include "tiles.h"

struct products {
    const float *left, *right; /* [count, rows, N] and [count, N, N], contiguous */
    float *out;                /* [count, rows, N], neither of the others */
    float *workspace;          /* threads times products_workspace() floats, 64-byte aligned */
    int64_t count, rows, N, parts; /* parts: tasks of one product */
    int32_t threads;
    float factor;
};

/* Floats that one thread needs; a multiple of 16. */
int64_t products_workspace(int64_t N) { return rounded(N, PANEL) * N; }

static void run(const struct products *call, int64_t task, float *panels) {
    const int64_t N = call->N, product = task / call->parts, part = task % call->parts;
    const int64_t share = rounded((call->rows + call->parts - 1) / call->parts, TILE);
    const int64_t first = part * share;
    const int64_t end = first + share < call->rows ? first + share : call->rows;
    const float *left = call->left + product * call->rows * N;
    float *out = call->out + product * call->rows * N;
    float factors[TILE];

    if (first >= end) return;
    for (int row = 0; row < TILE; row++) factors[row] = call->factor;
    pack_rows(panels, call->right + product * N * N, N, N, N);
    for (int64_t c = 0; c < N; c += PANEL)
        for (int64_t row = first; row < end; row += TILE)
            output_tile(end - row, left + row * N, N, panels + c * N, N, factors,
                        out + row * N + c, N, N - c);
}

void products(const struct products *call) {
    const int64_t room = products_workspace(call->N);
#pragma omp parallel for schedule(dynamic) num_threads(call->threads)
    for (int64_t task = 0; task < call->count * call->parts; task++)
        run(call, task, call->workspace + room * omp_get_thread_num());
}
