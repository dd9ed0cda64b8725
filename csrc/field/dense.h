// The dense layers of the field on the CPU, for blocks of samples: one product with tiles in registers, and the
// gradient of the output layer.
#pragma once
#include "base/simd.h"
#include "field/network.h"

namespace dfn::DFN_SIMD_LEVEL {

// out[r][c] (+)= sum_k a(r, k) b[k][c], a(r, k) = a[r * row + k * inner], for four rows and V vectors of columns.
template <bool kAccumulate, int V>
DFN_HD void multiply_tile(
    int depth, const float* a, int64_t row, int64_t inner, const float* b, int64_t ldb, float* out, int64_t ldo) {
    Floats s[4][V] = {};
    for (int k = 0; k < depth; ++k) {
        Floats x[V];
        for (int v = 0; v < V; ++v) x[v] = load(b + k * ldb + v * kWidth);
        for (int r = 0; r < 4; ++r)
            for (int v = 0; v < V; ++v) s[r][v] += a[r * row + k * inner] * x[v];
    }
    for (int r = 0; r < 4; ++r)
        for (int v = 0; v < V; ++v) {
            float* const o = out + r * ldo + v * kWidth;
            store(o, kAccumulate ? load(o) + s[r][v] : s[r][v]);
        }
}

// The same for `rows`, a multiple of 4, and `columns`, a multiple of kTile.
template <bool kAccumulate>
DFN_HD void multiply(int rows, int depth, int columns, const float* a, int64_t row, int64_t inner, const float* b,
    int64_t ldb, float* out, int64_t ldo) {
    for (int r = 0; r < rows; r += 4) {
        int c = 0;
        for (; c + 2 * kWidth <= columns; c += 2 * kWidth)
            multiply_tile<kAccumulate, 2>(depth, a + r * row, row, inner, b + c, ldb, out + r * ldo + c, ldo);
        for (; c < columns; c += kWidth)
            multiply_tile<kAccumulate, 1>(depth, a + r * row, row, inner, b + c, ldb, out + r * ldo + c, ldo);
    }
}

// e: the first input's value, the others each `row` floats behind the last.
DFN_HD void hidden_block(const PackedNetwork& w, const float* e, int64_t row, Scratch& b) {
    multiply<false>(w.hidden, w.inputs, kLanes, w.W1, w.inputs, 1, e, row, b.fired[0], kLanes);
    for (int j = 0; j < w.hidden; ++j)
        for (int i = 0; i < kLanes; i += kWidth) {
            const Floats z = load(&b.fired[j][i]) + w.b1[j], zero{};
            store(&b.fired[j][i], z > zero ? z : zero);
            store(&b.mask[j][i], z > zero ? splat(1) : zero);
        }
}

// dz, and the sums over samples that give W2's value path, b1 and b2.
DFN_HD void output_backward_block(const PackedNetwork& w, Scratch& b, const NetworkGradient& g) {
    const int H = w.hidden;
    for (int j = 0; j < H; ++j) {
        Floats s[kOutputs + 1] = {};
        for (int i = 0; i < kLanes; i += kWidth) {
            const Floats fired = load(&b.fired[j][i]);
            Floats dz{};
            for (int c = 0; c < kOutputs; ++c) {
                const Floats d = load(&b.d[c][i]);
                dz += w.W2[c * H + j] * d;
                s[c] += fired * d;
            }
            dz *= load(&b.mask[j][i]);
            store(&b.dz[j][i], dz);
            s[kOutputs] += dz;
        }
        for (int c = 0; c <= kOutputs; ++c) g.units[c * H + j] += sum(s[c]);
    }
    for (int c = 0; c < kOutputs; ++c)
        for (int i = 0; i < kLanes; i += kWidth) g.b2[c] += sum(load(&b.d[c][i]));
}

// out (hidden, inputs) += sum over samples of left[r] right[c]^T; right's rows are each `row` floats behind the last.
DFN_HD void add_outer_product(
    const PackedNetwork& w, const float (*left)[kLanes], const float* right, int64_t row, Scratch& b, float* out) {
    transpose(right, row, w.inputs, kLanes, b.transposed[0], kMaxInputs);
    multiply<true>(w.hidden, kLanes, w.inputs, left[0], kLanes, 1, b.transposed[0], kMaxInputs, out, w.inputs);
}

}  // namespace dfn::DFN_SIMD_LEVEL
