// Compiled once per instruction set (CMakeLists.txt), each time into a namespace of its own; as it stands, with no
// flags, into dfn::plain. No standard library here: a template of it, instantiated for one instruction set, could be
// linked into code for another.
#include "simd_kernels.h"

#include "adam/adam_block.h"
#include "base/ceilings_block.h"
#include "composite/composite_block.h"
#include "field/field_block.h"
#include "march/march_block.h"
#include "shade/shade_block.h"

#if !defined(DFN_SIMD_NAME)
#define DFN_SIMD_NAME "plain"
#endif

namespace dfn::DFN_SIMD_LEVEL {
namespace {

int rows_left(int64_t begin, int64_t end) { return end - begin < kLanes ? int(end - begin) : kLanes; }

// Calls fn(first row, number of rows, block) for every block of rows [begin, end).
template <class Fn>
DFN_HD void for_each_block(int64_t begin, int64_t end, const Blocks& blocks, Fn fn) {
    for (int64_t i = begin; i < end; i += kLanes) fn(i, rows_left(i, end), block_at(blocks, i - begin));
}

void place(const float* x, float bound, int64_t begin, int64_t end, const Blocks& blocks) {
    for_each_block(begin, end, blocks, [&](int64_t i, int live, Block b) { place_block(x, i, live, bound, b); });
}

void encode(const GridLayout& g, const float* table, const float* weight, int first, int last, int64_t rows,
    const Blocks& blocks) {
    for (int level = first; level < last; ++level) {
        const float w = weight ? weight[level] : 1;
        if (w == 0) continue;
        if (blocks.planes == kValue)
            encode_rows<kValue>(g, level, table, w, rows, blocks);
        else if (blocks.planes == kTangent)
            encode_rows<kTangent>(g, level, table, w, rows, blocks);
        else
            encode_rows<kJacobian>(g, level, table, w, rows, blocks);
    }
}

void encode_store(const HashGrid<float>& p, int64_t begin, int64_t end, const Blocks& blocks) {
    const int width = p.grid.levels * p.grid.features;
    for_each_block(begin, end, blocks,
        [&](int64_t i, int live, Block b) { transpose(b.input(0), kLanes, width, live, p.y + i * width, width); });
}

void encode_grad_x(const HashGrid<float>& p, int64_t begin, int64_t end, const Blocks& blocks) {
    const int width = p.grid.levels * p.grid.features;
    alignas(64) float grad_y[kMaxInputs][kLanes];
    for_each_block(begin, end, blocks, [&](int64_t i, int live, Block b) {
        transpose(p.grad_y + i * width, width, live, width, grad_y[0], kLanes);
        for (int axis = 0; axis < 3; ++axis)
            for (int n = 0; n < live; n += kWidth) {
                Floats s{};
                for (int k = 0; k < width; ++k) s += load(&grad_y[k][n]) * load(b.input(k, 1 + axis) + n);
                store(b.v(axis) + n, s);
            }
        for (int n = 0; n < live; ++n) store3(p.grad_x, i + n, Vec3<float>{b.v(0)[n], b.v(1)[n], b.v(2)[n]});
    });
}

void encode_load(const HashGrid<float>& p, int64_t begin, int64_t end, const Blocks& blocks) {
    const int width = p.grid.levels * p.grid.features;
    for_each_block(begin, end, blocks, [&](int64_t i, int live, Block b) {
        place_block(p.x, i, live, 0, b);
        transpose(p.grad_y + i * width, width, live, width, b.input(0), kLanes);
    });
}

void field_place(const Field<float>& p, int64_t begin, int64_t end, const Blocks& blocks) {
    for_each_block(
        begin, end, blocks, [&](int64_t i, int live, Block b) { field_place_block(p, i, live, blocks.inputs, b); });
}

void field_forward(
    const Field<float>& p, const PackedNetwork& w, int64_t begin, int64_t end, const Blocks& blocks, Scratch& s) {
    for_each_block(begin, end, blocks, [&](int64_t i, int live, Block b) { field_forward_block(p, w, i, live, b, s); });
}

void field_backward(const Field<float>& p, const PackedNetwork& w, int64_t begin, int64_t end, const Blocks& blocks,
    Scratch& s, const NetworkGradient& g) {
    for_each_block(
        begin, end, blocks, [&](int64_t i, int live, Block b) { field_backward_block(p, w, i, live, b, s, g); });
}

void scatter(const GridLayout& g, int level, float weight, int64_t rows, const Blocks& blocks, float* grad_table) {
    if (blocks.planes == kTangent)
        scatter_rows<kTangent>(g, level, weight, rows, blocks, grad_table);
    else
        scatter_rows<kValue>(g, level, weight, rows, blocks, grad_table);
}

uint32_t occupied(const March<float>& p, const RayWalk<float>& w, int k) { return occupied_ahead(p, w, k); }

void shade(const Shade<float>& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kLanes) shade_block(p, i, rows_left(i, end));
}

void shade_backward(const ShadeBackward<float>& p, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kLanes) shade_block_backward(p, i, rows_left(i, end));
}

}  // namespace

extern const RasterKernels raster_kernels;  // simd_raster.cpp
extern const SimdKernels kernels;
const SimdKernels kernels{DFN_SIMD_NAME, place, encode, encode_store, encode_grad_x, encode_load, field_forward,
    field_place, field_backward, scatter, occupied, shade, shade_backward, composite, composite_backward, adam,
    read_pairs, add_pairs, multiply_add, kWidth, &raster_kernels};

}  // namespace dfn::DFN_SIMD_LEVEL
