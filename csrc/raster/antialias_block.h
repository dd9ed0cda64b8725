// The gradient of edges: neighbours of different triangles are found a vector at a time, and those of a smooth surface,
// which have no edge between them, left out; the rest is `pair_backward`'s.
#pragma once
#include "raster/pixels_block.h"

namespace dfn::DFN_SIMD_LEVEL {

// `clearly_outside`, of triangles on the screen all before the near plane.
DFN_HD Mask outside_block(const Floats (&a)[4], const Floats (&b)[4], const Floats (&c)[4], Floats x, Floats y) {
    const Floats ax = a[0] - x, ay = a[1] - y, bx = b[0] - x, by = b[1] - y, cx = c[0] - x, cy = c[1] - y;
    const Floats ab = ax * by - bx * ay, bc = bx * cy - cx * by, ca = cx * ay - ax * cy;
    const auto size = [](Floats v) { return (Floats)((Ints)v & 0x7FFFFFFF); };
    const Floats reach = size(ax) + size(ay) + size(bx) + size(by) + size(cx) + size(cy);
    const Floats margin = 1e-6f * reach * reach;
    const Mask under = greater(-margin, ab) | greater(-margin, bc) | greater(-margin, ca);
    const Mask over = greater(ab, margin) | greater(bc, margin) | greater(ca, margin);
    return under & over & equal(a[3] + b[3] + c[3], splat(3 * kBefore));
}

// Which of kWidth pairs of different triangles have no edge between them: both known, with a vertex in common, and each
// clearly outside of the other's pixel. The pairs are pixels of columns x and their neighbours along `axis`.
DFN_HD Mask smooth_block(const Mesh<float>& m, int64_t view, Ints left, Ints right, Ints column, int y, int axis) {
    alignas(64) int32_t l[3][kWidth], r[3][kWidth];
    Mask smooth = vertices_of(m.faces, m.triangles, m.vertices, left, l) &
                  vertices_of(m.faces, m.triangles, m.vertices, right, r);
    Mask common = first_lanes(0);
    for (int i = 0; i < 3; ++i)
        for (int k = 0; k < 3; ++k) common |= equal(load_ints(l[i]), load_ints(r[k]));
    smooth &= common;
    if (!bits(smooth)) return smooth;
    const Floats x = to_floats(column), here = splat(float(y));
    const float* const screen = m.screen + 4 * view * m.vertices;
    Floats a[4], b[4], c[4];
    gather_fours(screen, l[0], a), gather_fours(screen, l[1], b), gather_fours(screen, l[2], c);
    smooth &= outside_block(a, b, c, x + float(axis == 0), here + float(axis == 1));
    gather_fours(screen, r[0], a), gather_fours(screen, r[1], b), gather_fours(screen, r[2], c);
    return smooth & outside_block(a, b, c, x, here);
}

// The pairs of kPixels pixels of a row and their neighbours along an axis, and room for a vector more.
struct alignas(64) Pairs {
    int32_t left[kPixels + kWidth], right[kPixels + kWidth], column[kPixels + kWidth];
    int count;
};

DFN_HD void find_pairs(const int32_t* face, const int32_t* next, int first, int live, Pairs& out) {
    out.count = 0;
    for (int i = 0; i < live; i += kWidth) {
        const int some = live - i < kWidth ? live - i : kWidth;
        const Ints left = load_some(face + i, some, -1), right = load_some(next + i, some, -1);
        const Mask differ = ~equal(left, right);
        Ints column;
        for (int k = 0; k < kWidth; ++k) column[k] = k;
        store_some(out.left + out.count, differ, left);
        store_some(out.right + out.count, differ, right);
        out.count += store_some(out.column + out.count, differ, column + (first + i));
    }
}

void antialias_backward(
    const AntialiasBackward<float>& p, int64_t begin, int64_t end, const SparseRows<float>& d_position) {
    const Mesh<float>& m = p.mesh;
    if (m.vertices == 0 || m.triangles == 0) return;
    Pairs pairs;
    for (int64_t row = begin; row < end; ++row) {
        const int64_t view = row / m.height;
        const int y = int(row % m.height);
        for (int first = 0; first < m.width; first += kPixels)
            for (int axis = 0; axis < 2; ++axis) {
                if (axis == 1 && y + 1 >= m.height) continue;
                const int end_x = m.width - (axis == 0);
                const int live = end_x - first < kPixels ? end_x - first : kPixels;
                const int32_t* const face = p.face + row * m.width + first;
                find_pairs(face, face + (axis == 0 ? 1 : m.width), first, live, pairs);
                for (int i = 0; i < pairs.count; i += kWidth) {
                    const int some = pairs.count - i < kWidth ? pairs.count - i : kWidth;
                    const Mask smooth = smooth_block(m, view, load_some(pairs.left + i, some, -1),
                        load_some(pairs.right + i, some, -1), load_some(pairs.column + i, some, 0), y, axis);
                    unsigned rest = ~bits(smooth) & ((1u << some) - 1);
                    for (; rest; rest &= rest - 1) {
                        const int x = pairs.column[i + __builtin_ctz(rest)];
                        antialias_pair_backward<0>(p, view, y, x, axis, d_position);
                    }
                }
            }
    }
}

}  // namespace dfn::DFN_SIMD_LEVEL
