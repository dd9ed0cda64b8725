// The hash grid on the CPU for a block of samples: the mathematics of hashgrid.h, a vector of samples at a time, level
// by level. Lanes past the last sample compute on zeros and are dropped: every loop's bounds are constant.
#pragma once
#include "base/blocks.h"
#include "base/simd.h"
#include "hashgrid/hashgrid.h"

namespace dfn::DFN_SIMD_LEVEL {

struct Level {
    float scale;
    uint32_t by_y, by_z, rows;  // a corner's row is x + y by_y + z by_z, wrapped, or with xor and masked where hashed
    bool dense, smooth;
};

DFN_HD Level level_of(const GridLayout& g, int level) {
    const bool dense = is_dense(g, level);
    const uint32_t resolution = g.resolution[level];
    return {g.scale[level], dense ? resolution : 2654435761u, dense ? resolution * resolution : 805459861u,
        g.rows[level], dense, g.smooth};
}

struct VectorAxis {
    Words cell;
    Floats weight, slope;
};

// `locate` of hashgrid.h.
DFN_HD VectorAxis locate_vector(Floats u, const Level& l) {
    const Floats zero{}, one = splat(1);
    const Floats inside = (u >= zero) & (u <= one) ? splat(l.scale) : zero;
    const Floats p = (u > zero ? (u < one ? u : one) : zero) * l.scale + 0.5f;
    const Ints cell = truncate(p);
    const Floats f = p - to_floats(cell);
    if (l.smooth) return {Words(cell), f * f * (3.0f - 2.0f * f), inside * (6.0f * f * (1.0f - f))};
    return {Words(cell), f, inside};
}

struct VectorCell {
    Words row[8];
    Vec3<Floats> weight, slope;
};

DFN_HD VectorCell find_vector_cell(const Level& l, Vec3<Floats> u) {
    const VectorAxis x = locate_vector(u.x, l), y = locate_vector(u.y, l), z = locate_vector(u.z, l);
    VectorCell cell{{}, {x.weight, y.weight, z.weight}, {x.slope, y.slope, z.slope}};
    const Words y0 = y.cell * l.by_y, z0 = z.cell * l.by_z, y1 = y0 + l.by_y, z1 = z0 + l.by_z;
    for (int c = 0; c < 8; c += 2) {
        const Words yy = c & 2 ? y1 : y0, zz = c & 4 ? z1 : z0, x1 = x.cell + 1;
        if (l.dense) {
            const Words a = x.cell + yy + zz, b = a + 1, wrapped = b - l.rows;
            const Words back = a - l.rows;
            cell.row[c] = a < back ? a : back;
            cell.row[c + 1] = b < wrapped ? b : wrapped;
        } else {
            const Words hash = yy ^ zz, mask = Words{} + (l.rows - 1);
            cell.row[c] = (x.cell ^ hash) & mask;
            cell.row[c + 1] = (x1 ^ hash) & mask;
        }
    }
    return cell;
}

// One block of Blocks.
struct Block {
    float* memory;
    int planes;

    float* u(int axis) const { return memory + axis * kLanes; }
    float* v(int axis) const { return memory + (3 + axis) * kLanes; }
    float* input(int k, int plane = 0) const { return memory + (6 + k * planes + plane) * kLanes; }
    Vec3<Floats> u_at(int i) const { return {load(u(0) + i), load(u(1) + i), load(u(2) + i)}; }
    Vec3<Floats> v_at(int i) const { return {load(v(0) + i), load(v(1) + i), load(v(2) + i)}; }
};

DFN_HD Block block_at(const Blocks& b, int64_t row) { return {b.memory + row / kLanes * b.size(), b.planes}; }

// u of rows [begin, begin + live), and nothing where there is no row. x in world units, or in [0, 1] with bound = 0.
DFN_HD void place_block(const float* x, int64_t begin, int live, float bound, const Block& b) {
    for (int i = 0; i < kLanes; ++i) {
        const Vec3<float> p = i < live ? load3(x, begin + i) : Vec3<float>{};
        b.u(0)[i] = p.x;
        b.u(1)[i] = p.y;
        b.u(2)[i] = p.z;
    }
    if (bound == 0) return;
    for (int axis = 0; axis < 3; ++axis)
        for (int i = 0; i < kLanes; ++i) b.u(axis)[i] = (b.u(axis)[i] + bound) / (2 * bound);
}

// N of one level's features (2, or 1 where their number is odd), from input k on, for all lanes of a block.
template <Planes kPlanes, int N>
DFN_HD void encode_features(const Level& l, const float* table, uint32_t stride, int k, float weight, const Block& b) {
    for (int i = 0; i < kLanes; i += kWidth) {
        const VectorCell cell = find_vector_cell(l, b.u_at(i));
        Floats value[N][8];
        for (int c = 0; c < 8; ++c) {
            const Words index = stride == 1 ? cell.row[c] : cell.row[c] * stride;
            if constexpr (N == 2)
                gather_pairs(table, index, value[0][c], value[1][c]);
            else
                value[0][c] = gather_one(table, index);
        }
        for (int f = 0; f < N; ++f) {
            const Trilinear<Floats> y = trilinear(value[f], cell.weight);
            store(b.input(k + f) + i, weight * y.value);
            const Vec3<Floats> grad = cell.slope * y.grad;
            if constexpr (kPlanes == kTangent) store(b.input(k + f, 1) + i, weight * dot(grad, b.v_at(i)));
            if constexpr (kPlanes == kJacobian) {
                store(b.input(k + f, 1) + i, weight * grad.x);
                store(b.input(k + f, 2) + i, weight * grad.y);
                store(b.input(k + f, 3) + i, weight * grad.z);
            }
        }
    }
}

template <Planes kPlanes>
DFN_HD void encode_rows(
    const GridLayout& g, int level, const float* table, float weight, int64_t rows, const Blocks& blocks) {
    const Level l = level_of(g, level);
    const int F = g.features, k = level * F;
    const float* const first = table + g.offset[level] * F;
    for (int64_t i = 0; i < rows; i += kLanes) {
        const Block b = block_at(blocks, i);
        if (F == 2)
            encode_features<kPlanes, 2>(l, first, 1, k, weight, b);
        else if (F % 2 == 0)
            for (int f = 0; f < F; f += 2) encode_features<kPlanes, 2>(l, first + f, F / 2, k + f, weight, b);
        else
            for (int f = 0; f < F; ++f) encode_features<kPlanes, 1>(l, first + f, F, k + f, weight, b);
    }
}

// The adjoint of `encode` along value and, with kTangent, along the derivative by v: one addition per corner and
// feature, in the order of the samples.
template <Planes kPlanes, int N>
DFN_HD void scatter_features(const Level& l, float weight, int k, int live, int features, const Block& b, float* grad) {
    alignas(64) float add[8][N * kLanes];
    alignas(64) uint32_t row[8][kLanes];
    for (int i = 0; i < kLanes; i += kWidth) {
        const VectorCell cell = find_vector_cell(l, b.u_at(i));
        Floats out[N][8];
        for (int f = 0; f < N; ++f) {
            Vec3<Floats> along{};
            if (kPlanes == kTangent) {
                const Floats q = weight * load(b.input(k + f, 1) + i);
                along = Vec3<Floats>{q, q, q} * (cell.slope * b.v_at(i));
            }
            trilinear_adjoint(weight * load(b.input(k + f) + i), along, cell.weight, out[f]);
        }
        for (int c = 0; c < 8; ++c) {
            std::memcpy(&row[c][i], &cell.row[c], sizeof cell.row[c]);
            if constexpr (N == 2)
                store_pairs(&add[c][2 * i], out[0][c], out[1][c]);
            else
                store(&add[c][i], out[0][c]);
        }
    }
    for (int i = 0; i < live; ++i)
        for (int c = 0; c < 8; ++c) {
            float* const entry = grad + int64_t(row[c][i]) * features;
            if constexpr (N == 2)
                *reinterpret_cast<Pair*>(entry) += *reinterpret_cast<const Pair*>(&add[c][2 * i]);
            else
                *entry += add[c][i];
        }
}

template <Planes kPlanes>
DFN_HD void scatter_rows(
    const GridLayout& g, int level, float weight, int64_t rows, const Blocks& blocks, float* grad_table) {
    const Level l = level_of(g, level);
    const int F = g.features, k = level * F;
    float* const grad = grad_table + g.offset[level] * F;
    for (int64_t i = 0; i < rows; i += kLanes) {
        const Block b = block_at(blocks, i);
        const int live = rows - i < kLanes ? int(rows - i) : kLanes;
        if (F == 2)
            scatter_features<kPlanes, 2>(l, weight, k, live, 2, b, grad);
        else if (F % 2 == 0)
            for (int f = 0; f < F; f += 2) scatter_features<kPlanes, 2>(l, weight, k + f, live, F, b, grad + f);
        else
            for (int f = 0; f < F; ++f) scatter_features<kPlanes, 1>(l, weight, k + f, live, F, b, grad + f);
    }
}

}  // namespace dfn::DFN_SIMD_LEVEL
