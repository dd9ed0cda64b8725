// The loops of rasterise, interpolate and antialias that are compiled once per instruction set (simd_raster.cpp), as a
// table of functions. Float only. No product is contracted with a sum and no order depends on the width of vectors:
// every level gives the same bits.
#pragma once
#include "raster/antialias.h"
#include "raster/interpolate.h"
#include "raster/rasterise.h"
#include "raster/sparse_rows.h"

namespace dfn {

constexpr int kBand = 16;  // rows of pixels that are drawn together

struct RowRange {
    int16_t top, bottom;  // pixels; top > bottom: the triangle is not seen
};

// What a band shows while it is drawn, in tiles of 4 columns of as many rows as a vector has fours of.
struct Tiles {
    float* depth;   // kBand x padded_width; infinite: nothing yet
    int32_t* face;  // -1: nothing

    static DFN_HD int64_t padded_width(int width) { return (int64_t(width) + 3) / 4 * 4; }
};

// Rows [begin, end) of pixels are those of all views.
struct RasterKernels {
    void (*project)(const Mesh<float>&, int64_t begin, int64_t end);  // rows of vertices of all views
    void (*rows_of)(const Rasterise<float>&, int64_t view, int64_t begin, int64_t end, RowRange* rows);
    void (*clear)(const Tiles&, int width);
    void (*draw)(const Rasterise<float>&, int64_t view, int top, const int32_t* triangles, int64_t count, const Tiles&);
    void (*finish)(const Rasterise<float>&, int64_t view, int top, const Tiles&);
    void (*rasterise_backward)(
        const RasteriseBackward<float>&, int64_t begin, int64_t end, const SparseRows<float>& d_position);
    void (*interpolate)(const Interpolate<float>&, int64_t begin, int64_t end);
    void (*interpolate_backward)(
        const InterpolateBackward<float>&, int64_t begin, int64_t end, const SparseRows<float>& d_attribute);
    void (*antialias_backward)(
        const AntialiasBackward<float>&, int64_t begin, int64_t end, const SparseRows<float>& d_position);
};

}  // namespace dfn
