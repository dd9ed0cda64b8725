// The dense layers of the field on the CPU, for blocks of samples: one register-tiled product, the weights padded to
// whole tiles, and the gradient of the weights. Loops have constant bounds, so that the compiler vectorises them.
#pragma once
#include <vector>

#include "field.h"

namespace dfn {

constexpr int kLanes = 64;  // samples per block
constexpr int kTile = 16;   // width of a register tile

DFN_HD int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// out[r][c] (+)= sum_k a(r, k) b[k][c], a(r, k) = a[r * row + k * inner_stride]; rows by 4, columns by kTile.
template <bool kAccumulate, class T>
DFN_HD void multiply(
    int rows, int inner, int columns, const T* a, int row, int inner_stride, const T* b, int ldb, T* out, int ldo) {
    for (int r = 0; r < rows; r += 4) {
        for (int c = 0; c < columns; c += kTile) {
            T s0[kTile] = {}, s1[kTile] = {}, s2[kTile] = {}, s3[kTile] = {};
            const T *w0 = a + r * row, *w1 = w0 + row, *w2 = w1 + row, *w3 = w2 + row;
            for (int k = 0; k < inner; ++k) {
                const T* x = b + k * ldb + c;
                const int n = k * inner_stride;
                for (int i = 0; i < kTile; ++i)
                    s0[i] += w0[n] * x[i], s1[i] += w1[n] * x[i], s2[i] += w2[n] * x[i], s3[i] += w3[n] * x[i];
            }
            T* o = out + r * ldo + c;
            for (int i = 0; i < kTile; ++i) o[i] = s0[i] + (kAccumulate ? o[i] : T(0));
            for (int i = 0; i < kTile; ++i) o[ldo + i] = s1[i] + (kAccumulate ? o[ldo + i] : T(0));
            for (int i = 0; i < kTile; ++i) o[2 * ldo + i] = s2[i] + (kAccumulate ? o[2 * ldo + i] : T(0));
            for (int i = 0; i < kTile; ++i) o[3 * ldo + i] = s3[i] + (kAccumulate ? o[3 * ldo + i] : T(0));
        }
    }
}

// The weights, padded with zeros to whole tiles; padded units never fire.
template <class T>
struct PackedWeights {
    int inputs, hidden;             // padded
    std::vector<T> W1, b1, W2, b2;  // W1 (hidden, inputs), W2 (4, hidden)

    explicit PackedWeights(const FieldModel<T>& m)
        : inputs(round_up(m.grid.levels * m.grid.features, kTile)),
          hidden(round_up(m.hidden, 4)),
          W1(hidden * inputs),
          b1(hidden),
          W2(kOutputs * hidden),
          b2(m.b2, m.b2 + kOutputs) {
        const int K = m.grid.levels * m.grid.features;
        for (int j = 0; j < m.hidden; ++j) {
            b1[j] = m.b1[j];
            for (int c = 0; c < kOutputs; ++c) W2[c * hidden + j] = m.W2[c * m.hidden + j];
            for (int k = 0; k < K; ++k) W1[j * inputs + k] = m.W1[j * K + k];
        }
    }
};

// The gradient of the weights over some blocks, padded like PackedWeights; sums over samples stay in kTile lanes.
template <class T>
struct WeightGradient {
    enum { kBias = kOutputs, kSums };  // rows of `units`: W2's four rows, b1
    std::vector<T> W1, units, b2;      // (hidden, inputs), (kSums, hidden, kTile), (4, kTile)

    explicit WeightGradient(const PackedWeights<T>& w)
        : W1(w.hidden * w.inputs), units(kSums * w.hidden * kTile), b2(kOutputs * kTile) {}

    static T lanes(const T* s) {
        T sum = T(0);
        for (int i = 0; i < kTile; ++i) sum += s[i];
        return sum;
    }
    // out += this, in the layout of Field::grad_weights.
    void add_to(const FieldModel<T>& m, const PackedWeights<T>& w, T* out) const {
        const int K = m.grid.levels * m.grid.features, H = m.hidden;
        for (int j = 0; j < H; ++j) {
            for (int k = 0; k < K; ++k) out[j * K + k] += W1[j * w.inputs + k];
            out[H * K + j] += lanes(&units[(kBias * w.hidden + j) * kTile]);
            for (int c = 0; c < kOutputs; ++c) out[H * K + H + c * H + j] += lanes(&units[(c * w.hidden + j) * kTile]);
        }
        for (int c = 0; c < kOutputs; ++c) out[H * K + 5 * H + c] += lanes(&b2[c * kTile]);
    }
};

}  // namespace dfn
