// The nearest triangle of every pixel of a band of rows, a vector of triangles set up at a time and then a tile of
// pixels of each: `set_up`, `is_covered` and `depth_plane` of rasterise.h to the bit.
#pragma once
#include "raster/raster_kernels.h"
#include "raster/rows_of_four.h"

namespace dfn::DFN_SIMD_LEVEL {

constexpr int kTileRows = kWidth / 4;
// Beyond these pixels, products of coordinates might not be finite; the scalar body knows what to do.
constexpr float kFar = 1e15f;

DFN_HD Floats least(Floats a, Floats b) { return select(greater(b, a), a, b); }
DFN_HD Floats most(Floats a, Floats b) { return select(greater(a, b), a, b); }

// `project_vertex` of rows [begin, end).
void project(const Mesh<float>& m, int64_t begin, int64_t end) {
    alignas(64) int32_t row[kWidth];
    for (int64_t i = begin; i < end; i += kWidth) {
        const int live = end - i < kWidth ? int(end - i) : kWidth;
        for (int k = 0; k < kWidth; ++k) row[k] = k < live ? k : 0;
        Floats c[4], s[4];
        gather_fours(m.position + 4 * i, row, c);
        const Floats zero{}, one = splat(1), sum = c[0] + c[1] + c[2] + c[3];
        const Mask whole = equal(sum - sum, zero), before = greater(c[3], zero) & not_less(c[2], -c[3]);
        s[0] = (one + c[0] / c[3]) * (0.5f * float(m.width)) - 0.5f;
        s[1] = (one - c[1] / c[3]) * (0.5f * float(m.height)) - 0.5f;
        s[2] = c[2] / c[3];
        const Mask good = equal(s[0] - s[0], zero) & equal(s[1] - s[1], zero) & equal(s[2] - s[2], zero);
        for (int k = 0; k < 3; ++k) s[k] = select(whole & before & good, s[k], zero);
        s[3] = select(whole & ~before, zero, select(whole & good, one, splat(kBroken)));
        if (live == kWidth) {
            store_fours(m.screen + 4 * i, s);
            continue;
        }
        alignas(64) float rest[4 * kWidth];
        store_fours(rest, s);
        std::memcpy(m.screen + 4 * i, rest, 4 * sizeof(float) * live);
    }
}

struct Points {
    Floats x, y, z, place;
};

// A vector of triangles of a view.
struct Triangles {
    alignas(64) int32_t row[3][kWidth];  // of their vertices
    Points corner[3];
    Mask plain, odd;                  // all before the near plane; to be done one by one
    Floats left, right, top, bottom;  // bounds
};

// `number`: of kWidth triangles, of which `live` count.
DFN_HD void load_triangles(const Mesh<float>& m, int64_t view, const int32_t* number, int live, Triangles& t) {
    const Mask known = vertices_of(m.faces, m.triangles, m.vertices, load_ints(number), t.row) & first_lanes(live);
    for (int k = 0; k < 3; ++k) {
        Floats v[4];
        gather_fours(m.screen + 4 * view * m.vertices, t.row[k], v);
        t.corner[k] = {v[0], v[1], v[2], v[3]};
    }
    const Points &a = t.corner[0], &b = t.corner[1], &c = t.corner[2];
    t.left = least(least(a.x, b.x), c.x), t.right = most(most(a.x, b.x), c.x);
    t.top = least(least(a.y, b.y), c.y), t.bottom = most(most(a.y, b.y), c.y);
    const Mask broken = greater(Floats{}, least(least(a.place, b.place), c.place));
    const Mask before = equal(a.place + b.place + c.place, splat(3 * kBefore));
    const Floats limit = splat(kFar);
    const Mask near = greater(limit, most(t.right, t.bottom)) & greater(least(t.left, t.top), -limit);
    t.plain = known & before & near;
    t.odd = known & ~broken & ~(before & near);
}

// Whole numbers of [0, size) between two bounds: `whole_between`.
DFN_HD void whole_between(Floats low, Floats high, int size, Ints& first, Ints& last) {
    low = select(greater(low, Floats{}), least(low, splat(float(size))), Floats{});
    high = select(greater(high, splat(-1)), least(high, splat(float(size - 1))), splat(-1));
    const Ints cut = truncate(low), end = truncate(high);
    first = cut + select(greater(low, to_floats(cut)), splat_int(1), Ints{});
    last = select(greater(Floats{}, high), splat_int(-1), end);
}

// Twice their areas, as `signed_area`.
DFN_HD void areas(const Triangles& t, double (&area)[kWidth]) {
    alignas(64) float x[3][kWidth], y[3][kWidth];
    for (int k = 0; k < 3; ++k) store(x[k], t.corner[k].x), store(y[k], t.corner[k].y);
    for (int i = 0; i < kWidth; ++i) {
        const double abx = double(x[1][i]) - double(x[0][i]), aby = double(y[1][i]) - double(y[0][i]);
        const double acx = double(x[2][i]) - double(x[0][i]), acy = double(y[2][i]) - double(y[0][i]);
        area[i] = abx * acy - aby * acx;
    }
}

// Which triangles show a face and have a pixel centre within their bounds.
DFN_HD Mask faces_us(const double (&area)[kWidth], bool cull) {
    alignas(64) int32_t seen[kWidth];
    for (int i = 0; i < kWidth; ++i) seen[i] = (area[i] < 0) | (!cull & (area[i] > 0)) ? -1 : 0;
    return equal(load_ints(seen), splat_int(-1));
}

DFN_HD RowRange rows_of_odd(const Rasterise<float>& p, int64_t view, int64_t triangle) {
    int first = p.mesh.height, last = -1;
    for_each_piece(p.mesh, view, triangle, [&](auto a, auto b, auto c) {
        Coverage<float> s;
        if (!set_up(a, b, c, p.mesh.height, p.mesh.width, p.cull, s)) return;
        first = s.top < first ? s.top : first;
        last = s.bottom > last ? s.bottom : last;
    });
    return {int16_t(first > last ? 1 : first), int16_t(last)};
}

void rows_of(const Rasterise<float>& p, int64_t view, int64_t begin, int64_t end, RowRange* rows) {
    const Mesh<float>& m = p.mesh;
    if (m.vertices == 0) {
        for (int64_t i = begin; i < end; ++i) rows[i - begin] = {1, 0};
        return;
    }
    Triangles t;
    alignas(64) int32_t number[kWidth], first[kWidth], last[kWidth];
    alignas(64) double area[kWidth];
    for (int64_t i = begin; i < end; i += kWidth) {
        const int live = end - i < kWidth ? int(end - i) : kWidth;
        for (int k = 0; k < kWidth; ++k) number[k] = int32_t(k < live ? i + k : begin);
        load_triangles(m, view, number, live, t);
        areas(t, area);
        Ints left, right, top, bottom;
        whole_between(t.left, t.right, m.width, left, right);
        whole_between(t.top, t.bottom, m.height, top, bottom);
        const Mask seen = t.plain & faces_us(area, p.cull) & ~greater(to_floats(left), to_floats(right)) &
                          ~greater(to_floats(top), to_floats(bottom));  // below the largest picture: no int16_t
        store_ints(first, select(seen, top, splat_int(1)));
        store_ints(last, select(seen, bottom, splat_int(-1)));
        for (int k = 0; k < live; ++k) rows[i - begin + k] = {int16_t(first[k]), int16_t(last[k])};
        for (unsigned odd = bits(t.odd); odd; odd &= odd - 1) {
            const int k = __builtin_ctz(odd);
            rows[i - begin + k] = rows_of_odd(p, view, i + k);
        }
    }
}

void clear_tiles(const Tiles& tiles, int width) {
    const int64_t size = kBand * Tiles::padded_width(width);
    const Floats nothing = splat(__builtin_inff());
    for (int64_t i = 0; i < size; i += kWidth) {
        store(tiles.depth + i, nothing);
        store_ints(tiles.face + i, splat_int(-1));
    }
}

// What is needed of a vector of triangles to draw one after the other. Edges with their signs turned so that a point is
// inside if the value is positive, or if it is not where `ties` is set.
struct alignas(64) Batch {
    float x[3][kWidth], y[3][kWidth], dx[3][kWidth], dy[3][kWidth];
    float px[kWidth], py[kWidth], pz[kWidth], zx[kWidth], zy[kWidth], nearest[kWidth], farthest[kWidth];
    double area[kWidth];
    int32_t left[kWidth], right[kWidth], top[kWidth], bottom[kWidth];
    unsigned ties[3] = {};
};

DFN_HD void edge_block(const Points& a, const Points& b, Mask clockwise, int k, Batch& out) {
    const Mask swap = greater(a.y, b.y) | (equal(a.y, b.y) & greater(a.x, b.x));
    const Floats x = select(swap, b.x, a.x), y = select(swap, b.y, a.y);
    const Floats dx = select(swap, a.x, b.x) - x, dy = select(swap, a.y, b.y) - y;
    const Mask plus = ~(swap ^ clockwise);  // the side
    const Mask ties = ~(greater(dy, Floats{}) ^ plus);
    const Mask same = ~(plus ^ ties);
    store(out.x[k], x), store(out.y[k], y);
    // side = +1 with ties: turned; -1 without: turned too.
    store(out.dx[k], select(same, -dx, dx)), store(out.dy[k], select(same, -dy, dy));
    out.ties[k] = bits(ties);
}

DFN_HD void plane_block(const Triangles& t, Batch& out) {
    alignas(64) float x[3][kWidth], y[3][kWidth], z[3][kWidth];
    for (int k = 0; k < 3; ++k) store(x[k], t.corner[k].x), store(y[k], t.corner[k].y), store(z[k], t.corner[k].z);
    for (int i = 0; i < kWidth; ++i) {
        const double bx = double(x[1][i]) - x[0][i], by = double(y[1][i]) - y[0][i], bz = double(z[1][i]) - z[0][i];
        const double cx = double(x[2][i]) - x[0][i], cy = double(y[2][i]) - y[0][i], cz = double(z[2][i]) - z[0][i];
        const double inverse = 1 / out.area[i];
        out.zx[i] = float((bz * cy - cz * by) * inverse);
        out.zy[i] = float((cz * bx - bz * cx) * inverse);
    }
    const Floats a = t.corner[0].z, b = t.corner[1].z, c = t.corner[2].z;
    store(out.px, t.corner[0].x), store(out.py, t.corner[0].y), store(out.pz, a);
    store(out.nearest, least(least(a, b), c)), store(out.farthest, most(most(a, b), c));
}

// Bit i: triangle i has a pixel centre within its bounds and the rows from `top` on.
DFN_HD unsigned prepare(const Rasterise<float>& p, const Triangles& t, int top, Batch& out) {
    areas(t, out.area);
    Ints left, right, first, last;
    whole_between(t.left, t.right, p.mesh.width, left, right);
    whole_between(t.top, t.bottom, p.mesh.height, first, last);
    store_ints(out.left, left), store_ints(out.right, right);
    const Ints end = splat_int(top + kBand - 1), begin = splat_int(top);
    first = first < begin ? begin : first;
    last = last > end ? end : last;
    store_ints(out.top, first - begin), store_ints(out.bottom, last - begin);
    const Mask seen = t.plain & faces_us(out.area, p.cull) & ~greater(to_floats(left), to_floats(right)) &
                      ~greater(to_floats(first), to_floats(last));
    if (!bits(seen)) return 0;
    alignas(64) int32_t turn[kWidth];
    for (int i = 0; i < kWidth; ++i) turn[i] = out.area[i] > 0 ? -1 : 0;
    const Mask clockwise = equal(load_ints(turn), splat_int(-1));
    edge_block(t.corner[0], t.corner[1], clockwise, 0, out);
    edge_block(t.corner[1], t.corner[2], clockwise, 1, out);
    edge_block(t.corner[2], t.corner[0], clockwise, 2, out);
    plane_block(t, out);
    return bits(seen);
}

// The columns (0 to 3) and rows of a tile's lanes.
struct TileLanes {
    Floats x, y;
    DFN_HD TileLanes() {
        for (int i = 0; i < kWidth; ++i) x[i] = float(i % 4), y[i] = float(i / 4);
    }
};

DFN_HD void draw_one(
    const Batch& b, int i, int32_t number, int top, int64_t stride, const TileLanes& lanes, const Tiles& tiles) {
    const int left = b.left[i], right = b.right[i];
    const Floats low = splat(float(left)), high = splat(float(right));
    const Floats upper = splat(float(top + b.top[i])), lower = splat(float(top + b.bottom[i]));
    const Mask none = first_lanes(0);
    Floats x[3], dy[3];
    Mask turned[3];
    for (int k = 0; k < 3; ++k) {
        x[k] = splat(b.x[k][i]), dy[k] = splat(b.dy[k][i]);
        turned[k] = b.ties[k] >> i & 1 ? ~none : none;
    }
    const Floats plane_x = splat(b.px[i]), plane_z = splat(b.pz[i]), zx = splat(b.zx[i]);
    const Floats nearest = splat(b.nearest[i]), farthest = splat(b.farthest[i]), one = splat(1);
    for (int y = b.top[i] / kTileRows * kTileRows; y <= b.bottom[i]; y += kTileRows) {
        const Floats py = lanes.y + float(top + y);
        const Mask rows = not_less(py, upper) & not_less(lower, py);
        Floats shift[3];
        for (int k = 0; k < 3; ++k) shift[k] = (py - b.y[k][i]) * b.dx[k][i];
        const Floats z_shift = (py - b.py[i]) * b.zy[i];
        for (int column = left & ~3; column <= right; column += 4) {
            const Floats px = lanes.x + float(column);
            Mask inside = rows & not_less(px, low) & not_less(high, px);
            for (int k = 0; k < 3; ++k) inside &= greater((px - x[k]) * dy[k], shift[k]) ^ turned[k];
            if (!bits(inside)) continue;
            Floats depth = plane_z + (px - plane_x) * zx + z_shift;
            depth = select(greater(depth, nearest), least(depth, farthest), nearest);
            const int64_t at = y * stride + column * kTileRows;
            const Floats before = load(tiles.depth + at);
            inside &= not_less(one, depth) & greater(before, depth);
            store(tiles.depth + at, select(inside, depth, before));
            store_ints(tiles.face + at, select(inside, splat_int(number), load_ints(tiles.face + at)));
        }
    }
}

// A triangle across the near plane, or far beyond the picture.
DFN_HD void draw_odd(const Rasterise<float>& p, int64_t view, int32_t number, int top, const Tiles& tiles) {
    const Mesh<float>& m = p.mesh;
    const int64_t stride = Tiles::padded_width(m.width);
    for_each_piece(m, view, number, [&](auto a, auto b, auto c) {
        Coverage<float> s;
        if (!set_up(a, b, c, m.height, m.width, p.cull, s)) return;
        const DepthPlane<float> plane = depth_plane(a, b, c, s.area);
        const int end = s.bottom < top + kBand - 1 ? s.bottom : top + kBand - 1;
        for (int y = s.top > top ? s.top : top; y <= end; ++y)
            for (int x = s.left; x <= s.right; ++x) {
                if (!is_covered(s, x, y)) continue;
                const float depth = plane(float(x), float(y));
                const int row = (y - top) / kTileRows * kTileRows;
                const int64_t at = row * stride + (x & ~3) * kTileRows + (y - top - row) * 4 + (x & 3);
                if (!(depth <= 1.0f) || !(depth < tiles.depth[at])) continue;
                tiles.depth[at] = depth;
                tiles.face[at] = number;
            }
    });
}

void draw(
    const Rasterise<float>& p, int64_t view, int top, const int32_t* triangles, int64_t count, const Tiles& tiles) {
    const int64_t stride = Tiles::padded_width(p.mesh.width);
    const TileLanes lanes;
    Triangles t;
    Batch batch;
    alignas(64) int32_t number[kWidth];
    for (int64_t i = 0; i < count; i += kWidth) {
        const int live = count - i < kWidth ? int(count - i) : kWidth;
        for (int k = 0; k < kWidth; ++k) number[k] = triangles[k < live ? i + k : i];
        load_triangles(p.mesh, view, number, live, t);
        const unsigned seen = prepare(p, t, top, batch);
        for (unsigned rest = seen | bits(t.odd); rest; rest &= rest - 1) {  // in order: the first of equals stays
            const int k = __builtin_ctz(rest);
            if (seen >> k & 1)
                draw_one(batch, k, number[k], top, stride, lanes, tiles);
            else
                draw_odd(p, view, number[k], top, tiles);
        }
    }
}

}  // namespace dfn::DFN_SIMD_LEVEL
