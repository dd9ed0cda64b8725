// Multiresolution hash grid (Mueller et al. 2022, "Instant Neural Graphics Primitives", section 3) in tiny-cuda-nn's
// convention. Per level, with u in [0, 1]: p = scale * u + 0.5, cell = floor(p), weight = frac(p) or its smoothstep,
// trilinear over 8 corners.
//
// Outside [0, 1] the lookup clamps and the derivative of that axis is zero. At a cell face the linear derivative is
// that of the upper cell. Gradients of the table are accumulated (+=), everything else is overwritten.
#pragma once
#include "base/hd.h"
#include "base/launch.h"

namespace dfn {

constexpr int kMaxLevels = 32;
constexpr int kMaxInputs = 64;  // levels * features

struct GridLayout {  // computed once on the host: no transcendental function decides an index
    int levels, features;
    bool smooth;                      // smoothstep weights
    float scale[kMaxLevels];          // cells along an axis, less one half cell at each end
    uint32_t resolution[kMaxLevels];  // corners along an axis
    uint32_t rows[kMaxLevels];        // table rows of a level; a power of two where the level is hashed
    int64_t offset[kMaxLevels];       // first table row of a level
};

template <class T>
struct HashGrid {
    GridLayout grid;
    const T* x;            // in   (n, 3)
    const T* table;        // in   (entries, features)
    const T* grad_y;       // in   (n, levels * features)
    const T* grad_grad_x;  // in   (n, 3), cotangent of grad_x
    T* y;                  // out  (n, levels * features)
    T* grad_x;             // out  (n, 3)
    T* grad_grad_y;        // out  (n, levels * features)
    T* grad_table;         // +=   (entries, features)
    int64_t n;
    const int64_t* count;  // in   (1), valid leading rows, or null

    DFN_FIELDS(grid, x, table, grad_y, grad_grad_x, y, grad_x, grad_grad_y, grad_table, n, count)
};

template <class T>
struct Axis {
    uint32_t cell;
    T weight, slope, curve;  // weight of the upper corner, its first and second derivative by u
};

template <class T>
DFN_HD Axis<T> locate(T u, T scale, bool smooth) {
    const T inside = u >= T(0) && u <= T(1) ? scale : T(0);
    const T p = clamp(u, T(0), T(1)) * scale + T(0.5);
    const int32_t cell = int32_t(p);  // truncation is floor: p > 0
    const T f = p - T(cell);
    const T weight = smooth ? f * f * (T(3) - T(2) * f) : f;
    const T slope = smooth ? T(6) * f * (T(1) - f) : T(1);
    const T curve = smooth ? T(6) - T(12) * f : T(0);
    return {uint32_t(cell), weight, inside * slope, inside * inside * curve};
}

DFN_HD bool is_dense(const GridLayout& g, int level) {
    const uint64_t r = g.resolution[level];
    return r * r * r <= g.rows[level];
}

// Dense rows wrap like tiny-cuda-nn's: the last corner of a row may be the first of the next; below twice the rows.
DFN_HD uint32_t dense_row(uint32_t x, uint32_t y, uint32_t z, uint32_t resolution, uint32_t rows) {
    const uint32_t row = x + resolution * (y + resolution * z);
    return row < rows ? row : row - rows;
}
DFN_HD uint32_t hashed_row(uint32_t x, uint32_t y, uint32_t z, uint32_t rows) {
    return (x ^ (y * 2654435761u) ^ (z * 805459861u)) & (rows - 1);
}

// Trilinear interpolation of 8 corners (bit 0 of the corner number is the upper x, bit 1 y, bit 2 z), its derivatives
// by the three weights, and its mixed second derivatives (yz, xz, xy). The pure second derivatives are zero.
template <class T>
struct Trilinear {
    T value;
    Vec3<T> grad, mixed;
};

template <class T>
DFN_HD Trilinear<T> trilinear(const T (&v)[8], Vec3<T> w) {
    const T dx0 = v[1] - v[0], dx1 = v[3] - v[2], dx2 = v[5] - v[4], dx3 = v[7] - v[6];
    const T a0 = v[0] + w.x * dx0, a1 = v[2] + w.x * dx1, a2 = v[4] + w.x * dx2, a3 = v[6] + w.x * dx3;
    const T dy0 = a1 - a0, dy1 = a3 - a2, dxy0 = dx1 - dx0, dxy1 = dx3 - dx2;
    const T b0 = a0 + w.y * dy0, b1 = a2 + w.y * dy1, e0 = dx0 + w.y * dxy0, e1 = dx2 + w.y * dxy1;
    const T dz = b1 - b0, dxz = e1 - e0, dyz = dy1 - dy0;
    return {b0 + w.z * dz, {e0 + w.z * dxz, dy0 + w.z * dyz, dz}, {dyz, dxz, dxy0 + w.z * (dxy1 - dxy0)}};
}

// The adjoint of `trilinear` in v: out[c] = value * w_c + grad . (d w_c / d weights).
template <class T>
DFN_HD void trilinear_adjoint(T value, Vec3<T> grad, Vec3<T> w, T (&out)[8]) {
    const T b1 = w.z * value + grad.z, b0 = value - b1;
    const T y1 = w.z * grad.y, y0 = grad.y - y1, x1 = w.z * grad.x, x0 = grad.x - x1;
    const T a3 = w.y * b1 + y1, a2 = b1 - a3, a1 = w.y * b0 + y0, a0 = b0 - a1;
    const T d3 = w.y * x1, d2 = x1 - d3, d1 = w.y * x0, d0 = x0 - d1;
    out[7] = w.x * a3 + d3;
    out[6] = a3 - out[7];
    out[5] = w.x * a2 + d2;
    out[4] = a2 - out[5];
    out[3] = w.x * a1 + d1;
    out[2] = a1 - out[3];
    out[1] = w.x * a0 + d0;
    out[0] = a0 - out[1];
}

// A point in one level: the offsets of its 8 corners in the table, the weights and their derivatives.
template <class T>
struct Cell {
    int64_t entry[8];
    Vec3<T> weight, slope, curve;
};

template <class T>
DFN_HD Cell<T> find_cell(const GridLayout& g, int level, Vec3<T> u) {
    const T scale = T(g.scale[level]);
    const Axis<T> x = locate(u.x, scale, g.smooth), y = locate(u.y, scale, g.smooth), z = locate(u.z, scale, g.smooth);
    const bool dense = is_dense(g, level);
    Cell<T> cell{{}, {x.weight, y.weight, z.weight}, {x.slope, y.slope, z.slope}, {x.curve, y.curve, z.curve}};
    for (uint32_t c = 0; c < 8; ++c) {
        const uint32_t i = x.cell + (c & 1), j = y.cell + ((c >> 1) & 1), k = z.cell + (c >> 2);
        const uint32_t row =
            dense ? dense_row(i, j, k, g.resolution[level], g.rows[level]) : hashed_row(i, j, k, g.rows[level]);
        cell.entry[c] = (g.offset[level] + row) * g.features;
    }
    return cell;
}

template <class T>
DFN_HD Trilinear<T> interpolate(const T* table, const Cell<T>& cell, int feature) {
    T v[8];
    for (int c = 0; c < 8; ++c) v[c] = table[cell.entry[c] + feature];
    return trilinear(v, cell.weight);
}

// Adds value * w_c + (grad w_c) . direction, both already multiplied by their feature's gradient, to the 8 corners.
template <class T, class Add>
DFN_HD void scatter(T* grad_table, const Cell<T>& cell, int feature, T value, Vec3<T> direction, Add) {
    T out[8];
    trilinear_adjoint(value, direction, cell.weight, out);
    for (int c = 0; c < 8; ++c) Add::add(grad_table + cell.entry[c] + feature, out[c]);
}

// y of one sample and level.
template <class T>
DFN_HD void hashgrid_forward_body(const HashGrid<T>& p, int64_t i, int level, bool live) {
    const int F = p.grid.features;
    T* y = p.y + i * p.grid.levels * F + level * F;
    const Cell<T> cell = find_cell(p.grid, level, live ? load3(p.x, i) : Vec3<T>{});
    for (int f = 0; f < F; ++f) y[f] = live ? interpolate(p.table, cell, f).value : T(0);
}

// grad_table of one sample and level.
template <class T, class Add>
DFN_HD void hashgrid_grad_table_body(const HashGrid<T>& p, int64_t i, int level, Add add) {
    const int F = p.grid.features;
    const T* grad_y = p.grad_y + i * p.grid.levels * F + level * F;
    const Cell<T> cell = find_cell(p.grid, level, load3(p.x, i));
    for (int f = 0; f < F; ++f) scatter(p.grad_table, cell, f, grad_y[f], Vec3<T>{}, add);
}

// grad_x of one sample, all levels.
template <class T>
DFN_HD void hashgrid_grad_x_body(const HashGrid<T>& p, int64_t i, bool live) {
    const int F = p.grid.features;
    const T* grad_y = p.grad_y + i * p.grid.levels * F;
    Vec3<T> sum{};
    for (int level = 0; level < (live ? p.grid.levels : 0); ++level) {
        const Cell<T> cell = find_cell(p.grid, level, load3(p.x, i));
        for (int f = 0; f < F; ++f)
            sum = sum + grad_y[level * F + f] * (cell.slope * interpolate(p.table, cell, f).grad);
    }
    store3(p.grad_x, i, sum);
}

// With v the cotangent of grad_x: the gradient of v . grad_x by x (grad_x here is that output), one sample, all levels.
template <class T>
DFN_HD void hashgrid_hessian_body(const HashGrid<T>& p, int64_t i, bool live) {
    const int F = p.grid.features;
    const T* grad_y = p.grad_y + i * p.grid.levels * F;
    const Vec3<T> v = load3(p.grad_grad_x, i);
    Vec3<T> sum{};
    for (int level = 0; level < (live ? p.grid.levels : 0); ++level) {
        const Cell<T> cell = find_cell(p.grid, level, load3(p.x, i));
        const Vec3<T> s = cell.slope, sv = s * v;
        for (int f = 0; f < F; ++f) {
            const Trilinear<T> t = interpolate(p.table, cell, f);
            const Vec3<T> m = t.mixed, cross{m.z * sv.y + m.y * sv.z, m.z * sv.x + m.x * sv.z, m.y * sv.x + m.x * sv.y};
            sum = sum + grad_y[level * F + f] * (cell.curve * t.grad * v + s * cross);
        }
    }
    store3(p.grad_x, i, sum);
}

// With v the cotangent of grad_x: grad_grad_y, the derivative of y along v, one sample and level.
template <class T>
DFN_HD void hashgrid_tangent_value(const HashGrid<T>& p, int64_t i, int level, bool live) {
    const int F = p.grid.features;
    const Cell<T> cell = find_cell(p.grid, level, live ? load3(p.x, i) : Vec3<T>{});
    const Vec3<T> sv = live ? cell.slope * load3(p.grad_grad_x, i) : Vec3<T>{};
    for (int f = 0; f < F; ++f)
        p.grad_grad_y[i * p.grid.levels * F + level * F + f] = dot(interpolate(p.table, cell, f).grad, sv);
}

// With v the cotangent of grad_x: grad_grad_y (the derivative of y along v) and grad_table, one sample and level.
template <class T, class Add>
DFN_HD void hashgrid_tangent_body(const HashGrid<T>& p, int64_t i, int level, bool live, Add add) {
    const int F = p.grid.features;
    const int64_t row = i * p.grid.levels * F + level * F;
    const Cell<T> cell = find_cell(p.grid, level, live ? load3(p.x, i) : Vec3<T>{});
    const Vec3<T> sv = live ? cell.slope * load3(p.grad_grad_x, i) : Vec3<T>{};
    for (int f = 0; f < F; ++f) {
        p.grad_grad_y[row + f] = dot(interpolate(p.table, cell, f).grad, sv);
        if (live) scatter(p.grad_table, cell, f, T(0), p.grad_y[row + f] * sv, add);
    }
}

DFN_DECLARE(hashgrid_forward, HashGrid)
DFN_DECLARE(hashgrid_grad_table, HashGrid)
DFN_DECLARE(hashgrid_grad_x, HashGrid)
DFN_DECLARE(hashgrid_grad_x_backward, HashGrid)

}  // namespace dfn
