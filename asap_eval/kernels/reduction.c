/* What becomes of a batch's tokens when they go into slots: one pass over them makes the features,
 * the sizes and the map of the patches.
 *
 * An image's sums run over its tokens in their order, so they have the same bits in any batch, on
 * any thread; a token alone with factor 1 is copied.
 */

#include <float.h>

#include "tiles.h"

struct survey {
    const int64_t *group; /* [count, N] slots, -1 = dropped */
    const float *size;    /* [count, N], 0 = padding */
    const float *share;   /* [count, N] factors of sizes, or NULL */
    int64_t *found;       /* [3, count]: slots; tokens that share one or are not of size 1; moved */
    int64_t count, N;
};

void survey(const struct survey *call) {
    for (int64_t image = 0; image < call->count; image++) {
        const int64_t *group = call->group + image * call->N;
        const float *size = call->size + image * call->N;
        const float *share = call->share ? call->share + image * call->N : 0;
        int64_t last = -1, left = 0, sized = 0, moved = 0;
        for (int64_t token = 0; token < call->N; token++) {
            const int64_t slot = group[token];
            last = slot > last ? slot : last;
            left += slot >= 0;
            sized += (slot >= 0) & (size[token] * (share ? share[token] : 1) != 1);
            moved |= slot != (size[token] > 0 ? token : -1);
        }
        call->found[image] = last + 1;
        call->found[call->count + image] = left - (last + 1) + sized;
        call->found[2 * call->count + image] = moved;
    }
}

struct reduction {
    const float *x; /* [T, D] tokens as they lie in memory, D contiguous */
    float *out;     /* [T', D], contiguous */
    const int64_t *starts, *lengths;       /* [count] rows of each image in x */
    const int64_t *new_starts, *new_rows;  /* [count] rows to write in out */
    const int64_t *group;  /* [count, N] */
    const float *size;     /* [count, N] */
    const float *weight;   /* [count, N] factors, or NULL: size over the slot's */
    const float *share;    /* [count, N] factors of sizes, or NULL */
    const int64_t *source; /* [count, P] slot of each patch, -1 = lost */
    float *new_size;       /* [count, longest] */
    int64_t *new_source;   /* [count, P] */
    float *workspace;      /* threads times 2 longest floats */
    int64_t count, N, D, x_token, P, longest;
    float least; /* size of a slot whose shares sum to less */
    int32_t threads;
};

/* to = factor x, or added to what is there. */
INLINE void add(float *to, const float *x, float factor, int64_t D, int first) {
    int64_t c = 0;
    if (first)
        for (; c + LANES <= D; c += LANES) store(to + c, load(x + c) * splat(factor));
    else
        for (; c + LANES <= D; c += LANES)
            store(to + c, load(to + c) + load(x + c) * splat(factor));
    for (; c < D; c++) to[c] = first ? x[c] * factor : to[c] + x[c] * factor;
}

static void reduce(const struct reduction *call, int64_t image, float *total) {
    const int64_t N = call->N, D = call->D, longest = call->longest;
    const int64_t length = call->lengths[image], rows = call->new_rows[image];
    const int64_t *group = call->group + image * N, *source = call->source + image * call->P;
    const float *size = call->size + image * N;
    const float *weight = call->weight ? call->weight + image * N : 0;
    const float *share = call->share ? call->share + image * N : 0;
    const float *x = call->x + call->starts[image] * call->x_token;
    float *out = call->out + call->new_starts[image] * D;
    float *new_size = call->new_size + image * longest;
    int64_t *new_source = call->new_source + image * call->P;
    float *filled = total + longest; /* 0 where no token has come yet */
    int64_t slots = 0;

    memset(total, 0, 2 * longest * sizeof(float));
    memset(new_size, 0, longest * sizeof(float));
    for (int64_t token = 0; token < length; token++) {
        const int64_t slot = group[token];
        if (slot < 0) continue;
        slots = slot >= slots ? slot + 1 : slots;
        total[slot] += size[token];
        new_size[slot] += share ? size[token] * share[token] : size[token];
    }
    for (int64_t slot = 0; slot < slots; slot++) {
        total[slot] = total[slot] < FLT_MIN ? FLT_MIN : total[slot];
        if (share && new_size[slot] < call->least) new_size[slot] = call->least;
    }
    for (int64_t patch = 0; patch < call->P; patch++)
        new_source[patch] = source[patch] < 0 ? -1 : group[source[patch]];

    for (int64_t token = 0; token < length; token++) {
        const int64_t slot = group[token];
        if (slot < 0) continue;
        const float factor = weight ? weight[token] : size[token] / total[slot];
        const float *from = x + token * call->x_token;
        if (filled[slot])
            add(out + slot * D, from, factor, D, 0);
        else
            add(out + slot * D, from, factor, D, 1);
        filled[slot] = 1;
    }
    for (int64_t slot = 0; slot < rows; slot++)
        if (!filled[slot]) memset(out + slot * D, 0, D * sizeof(float));
}

void reduction(const struct reduction *call) {
#pragma omp parallel for schedule(dynamic) num_threads(call->threads)
    for (int64_t image = 0; image < call->count; image++)
        reduce(call, image, call->workspace + 2 * call->longest * omp_get_thread_num());
}
