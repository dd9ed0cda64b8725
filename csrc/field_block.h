// The field on the CPU: the mathematics of field.h for a block of samples at a time, level by level, structure of
// arrays, so that the compiler vectorises across samples (for the gradient of W1: across inputs). Lanes past the last
// sample compute on zeros and are dropped: every loop's bounds are constant.
#pragma once
#include "dense.h"

namespace dfn {

// Keeps a loop over loads of table entries from becoming vector gathers.
#if defined(__GNUC__)
#define DFN_SCALAR(pointer) asm("" : "+r"(pointer))
#else
#define DFN_SCALAR(pointer) (void)0
#endif

// A block of points in one level.
template <class T>
struct LevelBlock {
    uint32_t cell[3][kLanes], row[8][kLanes];
    T weight[3][kLanes], slope[3][kLanes];
};

template <class T>
DFN_HD void find_cells(const GridLayout& g, int level, const T (&u)[3][kLanes], LevelBlock<T>& b) {
    const T scale = T(g.scale[level]);
    const uint32_t resolution = g.resolution[level], rows = g.rows[level];
    const bool dense = is_dense(g, level), smooth = g.smooth;
    for (int axis = 0; axis < 3; ++axis) {
        for (int i = 0; i < kLanes; ++i) {
            const Axis<T> a = locate(u[axis][i], scale, smooth);
            b.cell[axis][i] = a.cell, b.weight[axis][i] = a.weight, b.slope[axis][i] = a.slope;
        }
    }
    for (uint32_t c = 0; c < 8; ++c) {
        const uint32_t x = c & 1, y = (c >> 1) & 1, z = c >> 2;
        if (dense) {
            for (int i = 0; i < kLanes; ++i)
                b.row[c][i] = dense_row(b.cell[0][i] + x, b.cell[1][i] + y, b.cell[2][i] + z, resolution, rows);
        } else {
            for (int i = 0; i < kLanes; ++i)
                b.row[c][i] = hashed_row(b.cell[0][i] + x, b.cell[1][i] + y, b.cell[2][i] + z, rows);
        }
    }
}

// Where the samples are: what the scatter needs of a block besides de and q.
template <class T>
struct Points {
    T u[3][kLanes], v[3][kLanes];  // unit coordinate; cotangent of grad_h per unit coordinate
};

template <class T>
DFN_HD void load_points(const Field<T>& p, int64_t begin, int live, Points<T>& b) {
    const T size = T(2) * p.model.bound;
    for (int i = 0; i < kLanes; ++i) {
        const Vec3<T> u = to_unit_cube(i < live ? load3(p.x, begin + i) : Vec3<T>{}, p.model.bound);
        const Vec3<T> v = i < live && p.d_grad_h ? load3(p.d_grad_h, begin + i) : Vec3<T>{};
        b.u[0][i] = u.x, b.u[1][i] = u.y, b.u[2][i] = u.z;
        b.v[0][i] = v.x / size, b.v[1][i] = v.y / size, b.v[2][i] = v.z / size;
    }
}

// Everything a block computes; row k of an array is input, unit or output k.
template <class T>
struct FieldBlock {
    Points<T> points;
    LevelBlock<T> level;
    T e[kMaxInputs][kLanes], t[kMaxInputs][kLanes];  // weighted encoding; its derivative along v
    T jacobian[kMaxInputs][3][kLanes];               // its derivatives by u
    T q[kMaxInputs][kLanes], de[kMaxInputs][kLanes];
    T fired[kMaxHidden][kLanes], mask[kMaxHidden][kLanes];  // max(z, 0); m w2_0
    T a[kMaxHidden][kLanes], dz[kMaxHidden][kLanes];
    T o[kOutputs][kLanes], d[kOutputs][kLanes];
    T transposed[kLanes][kMaxInputs];
};

enum class Encode { kValue, kJacobian, kTangent };

// The table's values at the corners of every cell: corner[feature][c][i]. Single loads: a vector gather is slower.
template <int F, class T>
DFN_HD void gather(const T* table, int feature, const LevelBlock<T>& l, T (&corner)[F][8][kLanes], int features) {
    for (int c = 0; c < 8; ++c) {
        for (int i = 0; i < kLanes; ++i) {
            const T* entry = table + int64_t(l.row[c][i]) * features + feature;
            DFN_SCALAR(entry);
            for (int f = 0; f < F; ++f) corner[f][c][i] = entry[f];
        }
    }
}

// F features at a time, from input k on.
template <Encode kMode, int F, class T>
DFN_HD void encode_features(const FieldModel<T>& m, const T* table, int feature, T weight, int k, FieldBlock<T>& b) {
    const LevelBlock<T>& l = b.level;
    T corner[F][8][kLanes];
    gather<F>(table, feature, l, corner, m.grid.features);
    for (int f = 0; f < F; ++f, ++k) {
        const T(&v)[8][kLanes] = corner[f];
        for (int i = 0; i < kLanes; ++i) {
            const T values[8] = {v[0][i], v[1][i], v[2][i], v[3][i], v[4][i], v[5][i], v[6][i], v[7][i]};
            const Trilinear<T> y = trilinear(values, {l.weight[0][i], l.weight[1][i], l.weight[2][i]});
            const Vec3<T> grad = Vec3<T>{l.slope[0][i], l.slope[1][i], l.slope[2][i]} * (weight * y.grad);
            b.e[k][i] = weight * y.value;
            if (kMode == Encode::kJacobian)
                b.jacobian[k][0][i] = grad.x, b.jacobian[k][1][i] = grad.y, b.jacobian[k][2][i] = grad.z;
            if (kMode == Encode::kTangent)
                b.t[k][i] = dot(grad, {b.points.v[0][i], b.points.v[1][i], b.points.v[2][i]});
        }
    }
}

// Zeroes the inputs that encode_block leaves alone: levels of weight 0, and the padding.
template <class T>
DFN_HD void prepare_block(const FieldModel<T>& m, const PackedWeights<T>& w, FieldBlock<T>& b) {
    for (int k = 0; k < w.inputs; ++k) {
        const int level = k / m.grid.features;
        if (level < m.grid.levels && m.level_weight[level] != T(0)) continue;
        for (int i = 0; i < kLanes; ++i) {
            b.e[k][i] = b.t[k][i] = T(0);
            b.jacobian[k][0][i] = b.jacobian[k][1][i] = b.jacobian[k][2][i] = T(0);
        }
    }
}

template <Encode kMode, class T>
DFN_HD void encode_block(const FieldModel<T>& m, FieldBlock<T>& b) {
    for (int level = 0; level < m.grid.levels; ++level) {
        if (m.level_weight[level] == T(0)) continue;
        const int features = m.grid.features;
        const T* table = m.table + m.grid.offset[level] * features;
        find_cells(m.grid, level, b.points.u, b.level);
        if (features == 2) encode_features<kMode, 2>(m, table, 0, m.level_weight[level], level * 2, b);
        else
            for (int f = 0; f < features; ++f)
                encode_features<kMode, 1>(m, table, f, m.level_weight[level], level * features + f, b);
    }
}

template <class T>
DFN_HD void hidden_block(const PackedWeights<T>& w, FieldBlock<T>& b) {
    multiply<false>(w.hidden, w.inputs, kLanes, w.W1.data(), w.inputs, 1, b.e[0], kLanes, b.fired[0], kLanes);
    for (int j = 0; j < w.hidden; ++j) {
        const T bias = w.b1[j], w2 = w.W2[j];
        for (int i = 0; i < kLanes; ++i) {
            const T z = b.fired[j][i] + bias;
            b.fired[j][i] = max0(z), b.mask[j][i] = z > T(0) ? w2 : T(0);
        }
    }
}

// Rows [begin, begin + live) of the outputs.
template <class T>
DFN_HD void field_forward_block(
    const Field<T>& p, const PackedWeights<T>& w, int64_t begin, int live, FieldBlock<T>& b) {
    const FieldModel<T>& m = p.model;
    load_points(p, begin, live, b.points);
    if (p.grad_h) encode_block<Encode::kJacobian>(m, b);
    else encode_block<Encode::kValue>(m, b);
    hidden_block(w, b);
    multiply<false>(kOutputs, w.hidden, kLanes, w.W2.data(), w.hidden, 1, b.fired[0], kLanes, b.o[0], kLanes);
    T grad[3][kLanes] = {};
    if (p.grad_h) {
        multiply<false>(w.inputs, w.hidden, kLanes, w.W1.data(), 1, w.inputs, b.mask[0], kLanes, b.q[0], kLanes);
        for (int k = 0; k < m.grid.levels * m.grid.features; ++k)
            for (int axis = 0; axis < 3; ++axis)
                for (int i = 0; i < kLanes; ++i) grad[axis][i] += b.q[k][i] * b.jacobian[k][axis][i];
    }
    const T per_unit = T(1) / (T(2) * m.bound);
    for (int i = 0; i < live; ++i) {
        Vec3<T> bump;
        p.h[begin + i] = b.o[0][i] + w.b2[0] + blob_density(m.blob, load3(p.x, begin + i), bump);
        if (!p.grad_h) continue;
        store3(p.rgb_raw, begin + i, Vec3<T>{b.o[1][i] + w.b2[1], b.o[2][i] + w.b2[2], b.o[3][i] + w.b2[3]});
        store3(p.grad_h, begin + i, per_unit * Vec3<T>{grad[0][i], grad[1][i], grad[2][i]} + bump);
    }
}

// dz, and the sums over samples that give W2, b1 and b2.
template <class T>
DFN_HD void output_backward_block(const PackedWeights<T>& w, FieldBlock<T>& b, WeightGradient<T>& g) {
    const T* W2 = w.W2.data();
    const int H = w.hidden;
    for (int j = 0; j < H; ++j) {
        const T w0 = W2[j], w1 = W2[H + j], w2 = W2[2 * H + j], w3 = W2[3 * H + j];
        T s[WeightGradient<T>::kSums][kTile] = {};
        for (int first = 0; first < kLanes; first += kTile) {
            for (int n = 0; n < kTile; ++n) {
                const int i = first + n;
                const T fired = b.fired[j][i], on = fired > T(0) ? T(1) : T(0);
                const T d0 = b.d[0][i], d1 = b.d[1][i], d2 = b.d[2][i], d3 = b.d[3][i];
                const T dz = on * (w0 * d0 + w1 * d1 + w2 * d2 + w3 * d3);
                b.dz[j][i] = dz;
                s[0][n] += fired * d0 + on * b.a[j][i], s[1][n] += fired * d1;
                s[2][n] += fired * d2, s[3][n] += fired * d3, s[4][n] += dz;
            }
        }
        for (int row = 0; row < WeightGradient<T>::kSums; ++row)
            for (int n = 0; n < kTile; ++n) g.units[(row * H + j) * kTile + n] += s[row][n];
    }
    for (int c = 0; c < kOutputs; ++c)
        for (int i = 0; i < kLanes; ++i) g.b2[c * kTile + i % kTile] += b.d[c][i];
}

// W1's gradient += rows r over units, columns over inputs of sum_i left[r][i] right[column][i].
template <class T>
DFN_HD void add_outer_product(
    const PackedWeights<T>& w, const T (*left)[kLanes], const T (*right)[kLanes], FieldBlock<T>& b, T* W1) {
    for (int k = 0; k < w.inputs; ++k)
        for (int i = 0; i < kLanes; ++i) b.transposed[i][k] = right[k][i];
    multiply<true>(w.hidden, kLanes, w.inputs, left[0], kLanes, 1, b.transposed[0], kMaxInputs, W1, w.inputs);
}

// Adds to the weights' gradient and leaves de and q in b, for the scatter.
template <class T>
DFN_HD void field_backward_block(
    const Field<T>& p, const PackedWeights<T>& w, int64_t begin, int live, FieldBlock<T>& b, WeightGradient<T>& g) {
    load_points(p, begin, live, b.points);
    for (int i = 0; i < kLanes; ++i) {
        T d[kOutputs] = {};
        if (i < live) load_output_gradient(p, begin + i, d, 1);
        for (int c = 0; c < kOutputs; ++c) b.d[c][i] = d[c];
    }
    encode_block<Encode::kTangent>(p.model, b);
    hidden_block(w, b);
    multiply<false>(w.hidden, w.inputs, kLanes, w.W1.data(), w.inputs, 1, b.t[0], kLanes, b.a[0], kLanes);
    output_backward_block(w, b, g);
    add_outer_product(w, b.dz, b.e, b, g.W1.data());
    add_outer_product(w, b.mask, b.t, b, g.W1.data());
    multiply<false>(w.inputs, w.hidden, kLanes, w.W1.data(), 1, w.inputs, b.dz[0], kLanes, b.de[0], kLanes);
    multiply<false>(w.inputs, w.hidden, kLanes, w.W1.data(), 1, w.inputs, b.mask[0], kLanes, b.q[0], kLanes);
}

// One level of one block: the scatter of the value path (de) and the normal path (q); rows k of both are input k.
template <int F, class T>
DFN_HD void scatter_level(const FieldModel<T>& m, int level, const Points<T>& points, const T (*de)[kLanes],
    const T (*q)[kLanes], int live, T* grad_table) {
    const int features = F ? F : m.grid.features;
    const T weight = m.level_weight[level];
    T* grad = grad_table + m.grid.offset[level] * features;
    LevelBlock<T> l;
    T out[kLanes][8];
    find_cells(m.grid, level, points.u, l);
    for (int f = 0; f < features; ++f) {
        const int k = level * features + f;
        for (int i = 0; i < kLanes; ++i) {
            const Vec3<T> sv{
                l.slope[0][i] * points.v[0][i], l.slope[1][i] * points.v[1][i], l.slope[2][i] * points.v[2][i]};
            trilinear_adjoint(
                weight * de[k][i], (weight * q[k][i]) * sv, {l.weight[0][i], l.weight[1][i], l.weight[2][i]}, out[i]);
        }
        for (int i = 0; i < live; ++i)
            for (int c = 0; c < 8; ++c) grad[int32_t(l.row[c][i]) * features + f] += out[i][c];
    }
}

}  // namespace dfn
