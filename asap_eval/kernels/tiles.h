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
INLINE float sum_of(v8 x) {
    return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#ifndef SHUFFLE
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (v8i){__VA_ARGS__})
#endif

/* to[c, row] = from[row, c] of 8 rows and 8 columns. */
INLINE void transpose(const float *from, int64_t from_stride, float *to, int64_t to_stride) {
    v8 a[LANES], b[LANES];
#pragma GCC unroll 8
    for (int row = 0; row < LANES; row++) a[row] = load(from + row * from_stride);
#pragma GCC unroll 4
    for (int i = 0; i < LANES; i += 2) {
        b[i] = SHUFFLE(a[i], a[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        b[i + 1] = SHUFFLE(a[i], a[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
#pragma GCC unroll 2
    for (int i = 0; i < LANES; i += 4) {
        a[i] = SHUFFLE(b[i], b[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 1] = SHUFFLE(b[i], b[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        a[i + 2] = SHUFFLE(b[i + 1], b[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        a[i + 3] = SHUFFLE(b[i + 1], b[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        store(to + i * to_stride, SHUFFLE(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11));
        store(to + (i + 4) * to_stride, SHUFFLE(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15));
    }
}

/* A matrix [N, d] transposed, as panels [d, PANEL] of PANEL of its rows, zero past N. */
static void pack_columns(float *to, const float *matrix, int64_t stride, int64_t N, int64_t d) {
    for (int64_t row = 0; row < N; row += LANES) {
        float *panel = to + row / PANEL * PANEL * d + row % PANEL;
        const float *from = matrix + row * stride;
        int64_t c = 0;
        if (N - row >= LANES)
            for (; c + LANES <= d; c += LANES) transpose(from + c, stride, panel + c * PANEL, PANEL);
        for (; c < d; c++)
            for (int lane = 0; lane < LANES; lane++)
                panel[c * PANEL + lane] = row + lane < N ? from[lane * stride + c] : 0;
    }
    if (rounded(N, LANES) % PANEL) { /* the last panel's second half is all past N */
        float *panel = to + N / PANEL * PANEL * d + LANES;
        for (int64_t c = 0; c < d; c++) store(panel + c * PANEL, splat(0));
    }
}

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
