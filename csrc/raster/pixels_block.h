// Vectors of neighbouring pixels, each with its triangle: `look_at` and `plane_at` of screen.h, to the bit, and their
// derivative.
#pragma once
#include "raster/raster_kernels.h"
#include "raster/rows_of_four.h"

namespace dfn::DFN_SIMD_LEVEL {

constexpr int kPixels = 64;  // that are worked on together, whatever the width of a vector

// Of a vector that starts at i.
DFN_HD int lanes_from(int i, int live) { return live - i < kWidth ? live - i : kWidth; }

// Of `live` numbers, and `none` in the other lanes.
DFN_HD Ints load_some(const int32_t* p, int live, int32_t none) {
    if (live == kWidth) return load_ints(p);
    alignas(64) int32_t v[kWidth];
    for (int i = 0; i < kWidth; ++i) v[i] = i < live ? p[i] : none;
    return load_ints(v);
}

// `Seen`, without the numbers of the vertices.
struct SeenBlock {
    Floats z[3], w[3], x[3], y[3], e[3], sum;
    Floats half_width, half_height, right, down;
};

// position: of the pixels' view. px, py: the places.
DFN_HD void look_block(
    const float* position, int height, int width, const int32_t (*vertex)[kWidth], Floats px, Floats py, SeenBlock& s) {
    s.half_width = splat(0.5f * float(width)), s.half_height = splat(0.5f * float(height));
    s.right = splat(0.5f * float(width - 1)) - px, s.down = splat(0.5f * float(height - 1)) - py;
    for (int k = 0; k < 3; ++k) {
        Floats c[4];
        gather_fours(position, vertex[k], c);
        s.x[k] = c[0] * s.half_width + c[3] * s.right;
        s.y[k] = c[3] * s.down - c[1] * s.half_height;
        s.z[k] = c[2], s.w[k] = c[3];
    }
    s.e[0] = s.x[1] * s.y[2] - s.x[2] * s.y[1];
    s.e[1] = s.x[2] * s.y[0] - s.x[0] * s.y[2];
    s.e[2] = s.x[0] * s.y[1] - s.x[1] * s.y[0];
    s.sum = s.e[0] + s.e[1] + s.e[2];
}

// False where a plane is seen edge-on.
DFN_HD Mask plane_block(const SeenBlock& s, Floats (&b)[3], Floats& depth, Floats& w, Floats& inverse) {
    inverse = 1.0f / s.sum;
    for (int k = 0; k < 3; ++k) b[k] = s.e[k] * inverse;
    w = b[0] * s.w[0] + b[1] * s.w[1] + b[2] * s.w[2];
    const Floats z = b[0] * s.z[0] + b[1] * s.z[1] + b[2] * s.z[2];
    depth = z / w;
    return equal(depth - depth, Floats{});
}

// The gradient on a vertex's clip coordinates is its barycentric times `out`: if vertex k moves by d, the barycentrics
// change as if the point moved by -b_k d.
DFN_HD void plane_block_backward(const SeenBlock& s, const Floats (&b)[3], Floats depth, Floats w, Floats inverse,
    const Floats (&d_b)[3], Floats d_depth, Floats (&out)[4]) {
    Floats d_e[3], mean{};
    const Floats per_w = d_depth / w;
    for (int k = 0; k < 3; ++k) {
        d_e[k] = d_b[k] + per_w * (s.z[k] - depth * s.w[k]);
        mean += d_e[k] * b[k];
    }
    Floats dx{}, dy{};
    for (int k = 0; k < 3; ++k) {
        const int next = (k + 1) % 3, last = (k + 2) % 3;
        const Floats d = (d_e[k] - mean) * inverse;
        dx += d * (s.y[last] - s.y[next]);
        dy += d * (s.x[next] - s.x[last]);
    }
    out[0] = dx * s.half_width;
    out[1] = -dy * s.half_height;
    out[2] = per_w;
    out[3] = dx * s.right + dy * s.down - per_w * depth;
}

// Lanes i + `first`, as numbers.
DFN_HD Floats count_from(float first) {
    Floats v;
    for (int i = 0; i < kWidth; ++i) v[i] = float(i);
    return v + first;
}

// Of kPixels pixels: their triangle or -1, its vertices, barycentrics, and what is to be added to the vertices' rows
// with these weights.
struct alignas(64) Shares {
    int32_t face[kPixels], vertex[kPixels / kWidth][3][kWidth];
    float weight[4 * kPixels], value[4 * kPixels];
};

// Columns [first, first + count) of the vertices' rows += weight x value. Of neighbours that show the same triangle the
// sum is added.
DFN_HD void add_shares(const Shares& s, int live, int first, int count, const SparseRows<float>& target) {
    typedef int32_t FourInts __attribute__((vector_size(16)));
    alignas(64) float sums[kPixels][3][4];
    int32_t last[kPixels];  // pixel of a run
    int run = -1, current = -2;
    Four sum[3] = {};
    for (int i = 0; i < live; ++i) {  // without a branch: where a run ends is hard to predict
        const int32_t same = s.face[i] == current ? -1 : 0;
        const Four value = load4(s.value + 4 * i), weight = load4(s.weight + 4 * i);
        run += 1 + same, current = s.face[i], last[run] = i;
        for (int k = 0; k < 3; ++k) {
            sum[k] = (Four)((FourInts)sum[k] & same) + weight[k] * value;
            store4(sums[run][k], sum[k]);
        }
    }
    for (int r = 0; r <= run; ++r) {
        const int i = last[r];
        if (s.face[i] < 0) continue;
        for (int k = 0; k < 3; ++k) {
            float* const row = target[s.vertex[i / kWidth][k][i % kWidth]] + first;
            store_part(row, load_part(row, count) + load4(sums[r][k]), count);
        }
    }
}

}  // namespace dfn::DFN_SIMD_LEVEL
