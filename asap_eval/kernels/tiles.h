/* What the kernels share: vectors of eight floats, and tiles of a matrix product.
 *
 * The right matrix is packed into panels of PANEL columns; a tile is TILE rows of the left matrix
 * times one panel, its sums in registers. A row's sums run over the terms in order, whatever the
 * tile's other rows are: a row has the same bits in any tile, on any thread.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Declared here, as omp.h may be missing where only the runtime that torch brings is there. */
extern int omp_get_thread_num(void);

typedef float v8 __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef float v8_anywhere __attribute__((vector_size(32), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

enum {
    LANES = 8,
    TILE = 6,          /* rows of a tile: with two vectors each, 12 of 16 registers accumulate */
    PANEL = 2 * LANES, /* columns of a tile */
};

INLINE int64_t rounded(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

INLINE v8 load(const float *from) { return *(const v8_anywhere *)from; }
INLINE void store(float *to, v8 x) { *(v8_anywhere *)to = x; }
INLINE v8 splat(float x) { return (v8){x, x, x, x, x, x, x, x}; }

/* A matrix [N, d] as panels [N, PANEL] of PANEL columns, zero past d. */
static void pack_rows(float *to, const float *matrix, int64_t stride, int64_t N, int64_t d) {
    for (int64_t c = 0; c < d; c += PANEL, to += N * PANEL)
        for (int64_t i = 0; i < N; i++) {
            const float *from = matrix + i * stride + c;
            float *row = to + i * PANEL;
            if (d - c >= PANEL) {
                store(row, load(from));
                store(row + LANES, load(from + LANES));
            } else
                for (int lane = 0; lane < PANEL; lane++) row[lane] = lane < d - c ? from[lane] : 0;
        }
}

/* sums[row] = a[row, :] panel, over `depth` terms in order, for `rows` rows: known when compiled. */
INLINE void product(v8 sums[TILE][2], int rows, const float *a, int64_t a_stride,
                    const float *panel, int64_t depth) {
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) sums[row][0] = sums[row][1] = splat(0);
#pragma GCC unroll 2
    for (int64_t i = 0; i < depth; i++, panel += PANEL) {
        v8 left = load(panel), right = load(panel + LANES);
#pragma GCC unroll 6
        for (int row = 0; row < rows; row++) {
            v8 x = splat(a[row * a_stride + i]);
            sums[row][0] += x * left;
            sums[row][1] += x * right;
        }
    }
}

/* out = weights a panel: up to PANEL columns of the output, each row with its weight. */
INLINE void output_rows(int rows, const float *a, int64_t a_stride,
                        const float *panel, int64_t depth, const float *weights, float *out,
                        int64_t out_stride, int64_t columns) {
    v8 sums[TILE][2];
    product(sums, rows, a, a_stride, panel, depth);
#pragma GCC unroll 6
    for (int row = 0; row < rows; row++) {
        v8 x = sums[row][0] * splat(weights[row]), y = sums[row][1] * splat(weights[row]);
        float *to = out + row * out_stride;
        if (columns >= PANEL) {
            store(to, x);
            store(to + LANES, y);
        } else {
            v8 both[2] = {x, y};
            memcpy(to, both, columns * sizeof(float));
        }
    }
}

#define FOR_ROWS(rows, function, ...)                   \
    switch (rows) {                                     \
    case 1: function(1, __VA_ARGS__); break;            \
    case 2: function(2, __VA_ARGS__); break;            \
    case 3: function(3, __VA_ARGS__); break;            \
    case 4: function(4, __VA_ARGS__); break;            \
    case 5: function(5, __VA_ARGS__); break;            \
    default: function(TILE, __VA_ARGS__);               \
    }

static void output_tile(int64_t rows, const float *a, int64_t a_stride, const float *panel,
                        int64_t depth, const float *weights, float *out, int64_t out_stride,
                        int64_t columns) {
    FOR_ROWS(rows, output_rows, a, a_stride, panel, depth, weights, out, out_stride, columns)
}
