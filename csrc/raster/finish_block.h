// Depth and barycentrics of the pixels of a band, and their gradient: `finish_pixel` to the bit, and
// `rasterise_pixel_backward`.
#pragma once
#include "raster/draw_block.h"
#include "raster/pixels_block.h"

namespace dfn::DFN_SIMD_LEVEL {

// vertex, there: of the triangles of `live` pixels.
DFN_HD void finish_pixels(
    const Rasterise<float>& p, int64_t view, int y, int x, int live, const int32_t (*vertex)[kWidth], Mask there) {
    const Mesh<float>& m = p.mesh;
    const int64_t pixel = (view * m.height + y) * m.width + x;
    Floats b[3] = {}, depth = splat(1);
    if (bits(there)) {
        SeenBlock s;
        look_block(
            m.position + 4 * view * m.vertices, m.height, m.width, vertex, count_from(float(x)), splat(float(y)), s);
        Floats w, inverse;
        const Mask sees = plane_block(s, b, depth, w, inverse);
        for (int k = 0; k < 3; ++k) b[k] = select(there, select(sees, b[k], splat(1.0f / 3.0f)), Floats{});
        depth = select(there & sees, depth, splat(1));
    }
    if (live == kWidth) {
        store(p.depth + pixel, depth);
        store_threes(p.barycentric + 3 * pixel, b[0], b[1], b[2]);
        return;
    }
    alignas(64) float rest[4 * kWidth];
    store(rest, depth);
    store_threes(rest + kWidth, b[0], b[1], b[2]);
    std::memcpy(p.depth + pixel, rest, sizeof(float) * live);
    std::memcpy(p.barycentric + 3 * pixel, rest + kWidth, 3 * sizeof(float) * live);
}

void finish(const Rasterise<float>& p, int64_t view, int top, const Tiles& tiles) {
    const Mesh<float>& m = p.mesh;
    const int64_t stride = Tiles::padded_width(m.width);
    const int end = top + kBand < m.height ? top + kBand : m.height;
    const bool drawn = m.triangles > 0 && m.vertices > 0;
    alignas(64) int32_t vertex[kPixels / kWidth][3][kWidth];
    Mask there[kPixels / kWidth];
    for (int y = top; y < end; ++y) {
        const int row = (y - top) / kTileRows * kTileRows;
        const int32_t* const tile = tiles.face + row * stride + (y - top - row) * 4;
        int32_t* const face = p.face + (view * m.height + y) * m.width;
        for (int x = 0; x < m.width; x += 4) {
            const int count = m.width - x < 4 ? m.width - x : 4;
            if (count == 4)
                std::memcpy(face + x, tile + x * kTileRows, 4 * sizeof(int32_t));
            else
                for (int i = 0; i < count; ++i) face[x + i] = tile[x * kTileRows + i];
        }
        for (int first = 0; first < m.width; first += kPixels) {
            const int live = m.width - first < kPixels ? m.width - first : kPixels;
            for (int i = 0; i < live; i += kWidth) {
                const Ints shown = load_some(face + first + i, lanes_from(i, live), -1);
                there[i / kWidth] =
                    drawn ? vertices_of(m.faces, m.triangles, m.vertices, shown, vertex[i / kWidth]) : first_lanes(0);
            }
            for (int i = 0; i < live; i += kWidth)
                finish_pixels(p, view, y, first + i, lanes_from(i, live), vertex[i / kWidth], there[i / kWidth]);
        }
    }
}

// The shares of kWidth pixels, of which `live` count; false: there are none.
DFN_HD bool rasterise_shares(
    const RasteriseBackward<float>& p, int64_t view, int y, int x, int live, int at, Shares& out) {
    const Mesh<float>& m = p.mesh;
    const int64_t pixel = (view * m.height + y) * m.width + x;
    const Ints face = load_ints(out.face + at);
    const Mask there = ~equal(face, splat_int(-1));
    if (!bits(there)) return false;
    const int32_t (*const vertex)[kWidth] = out.vertex[at / kWidth];
    alignas(64) float rest[4 * kWidth] = {};
    const bool whole = live == kWidth;
    if (!whole) {
        std::memcpy(rest, p.d_depth + pixel, sizeof(float) * live);
        std::memcpy(rest + kWidth, p.d_barycentric + 3 * pixel, 3 * sizeof(float) * live);
    }
    Floats d_b[3], b[3], depth, w, inverse, value[4];
    load_threes(whole ? p.d_barycentric + 3 * pixel : rest + kWidth, d_b);
    const Floats d_depth = load(whole ? p.d_depth + pixel : rest);
    SeenBlock s;
    look_block(m.position + 4 * view * m.vertices, m.height, m.width, vertex, count_from(float(x)), splat(float(y)), s);
    const Mask sees = plane_block(s, b, depth, w, inverse);
    plane_block_backward(s, b, depth, w, inverse, d_b, d_depth, value);
    const Floats zero{};
    const Mask still = equal(d_b[0], zero) & equal(d_b[1], zero) & equal(d_b[2], zero) & equal(d_depth, zero);
    const Mask moves = there & sees & ~still;
    store_ints(out.face + at, select(moves, face, splat_int(-1)));
    const Floats weights[4] = {b[0], b[1], b[2], zero};
    store_fours(out.weight + 4 * at, weights);
    store_fours(out.value + 4 * at, value);
    return bits(moves);
}

void rasterise_backward(
    const RasteriseBackward<float>& p, int64_t begin, int64_t end, const SparseRows<float>& d_position) {
    const Mesh<float>& m = p.mesh;
    if (m.vertices == 0 || m.triangles == 0) return;
    Shares shares;
    for (int64_t row = begin; row < end; ++row)
        for (int first = 0; first < m.width; first += kPixels) {
            const int64_t view = row / m.height;
            const int live = m.width - first < kPixels ? m.width - first : kPixels;
            for (int i = 0; i < live; i += kWidth) {
                const Ints face = load_some(p.face + row * m.width + first + i, lanes_from(i, live), -1);
                const Mask there = vertices_of(m.faces, m.triangles, m.vertices, face, shares.vertex[i / kWidth]);
                store_ints(shares.face + i, select(there, face, splat_int(-1)));
            }
            bool any = false;
            for (int i = 0; i < live; i += kWidth)
                any |= rasterise_shares(p, view, int(row % m.height), first + i, lanes_from(i, live), i, shares);
            if (any) add_shares(shares, live, 0, 4, d_position);
        }
}

}  // namespace dfn::DFN_SIMD_LEVEL
