// The loops that are compiled once per instruction set (simd_kernels.cpp), as a table of functions. Float only: float64
// runs the plain bodies, sample by sample.
#pragma once
#include "adam/adam.h"
#include "base/blocks.h"
#include "composite/composite.h"
#include "field/network.h"
#include "march/march.h"
#include "raster/raster_kernels.h"
#include "shade/shade.h"

namespace dfn {

// Rows [begin, end) are those of the tensors; the first of them is the first of the blocks.
struct SimdKernels {
    const char* name;
    // Blocks of points, then their encoding in the levels [first, last); weight: one per level, or null for 1.
    void (*place)(const float* x, float bound, int64_t begin, int64_t end, const Blocks&);
    void (*encode)(
        const GridLayout&, const float* table, const float* weight, int first, int last, int64_t rows, const Blocks&);
    // The hash grid alone: y; grad_x; and the values of blocks from grad_y.
    void (*encode_store)(const HashGrid<float>&, int64_t begin, int64_t end, const Blocks&);
    void (*encode_grad_x)(const HashGrid<float>&, int64_t begin, int64_t end, const Blocks&);
    void (*encode_load)(const HashGrid<float>&, int64_t begin, int64_t end, const Blocks&);
    // The outputs of the field; and its gradients: adds to the network's, leaves de and q in the blocks.
    void (*field_forward)(
        const Field<float>&, const PackedNetwork&, int64_t begin, int64_t end, const Blocks&, Scratch&);
    void (*field_place)(const Field<float>&, int64_t begin, int64_t end, const Blocks&);  // place, and v
    void (*field_backward)(const Field<float>&, const PackedNetwork&, int64_t begin, int64_t end, const Blocks&,
        Scratch&, const NetworkGradient&);
    // One level's rows of grad_table += what the values (and, with kTangent, q along v) of blocks give.
    void (*scatter)(const GridLayout&, int level, float weight, int64_t rows, const Blocks&, float* grad_table);
    // Bit i, i < kLookAhead: the cell of sample k + i of a ray is occupied; also beyond its last sample.
    uint32_t (*occupied_ahead)(const March<float>&, const RayWalk<float>&, int k);
    // Rows, or rays, [begin, end) of the render ops; rows in use, all of them.
    void (*shade)(const Shade<float>&, int64_t begin, int64_t end);
    void (*shade_backward)(const ShadeBackward<float>&, int64_t begin, int64_t end);
    void (*composite)(const Composite<float>&, int64_t begin, int64_t end);
    void (*composite_backward)(const CompositeBackward<float>&, int64_t begin, int64_t end);
    int64_t (*adam)(const Adam<float>&, int64_t begin, int64_t end);  // returns how many elements are left out
    // What limits the above, for the benches: sums rows[i] of a table of pairs; adds to them; 2 * 12 * width operations
    // per round. Return something that depends on all of it.
    float (*read_pairs)(const float* table, const uint32_t* rows, int64_t n);
    float (*add_pairs)(float* table, const uint32_t* rows, int64_t n);
    float (*multiply_add)(int64_t rounds);
    int width;  // floats of a vector
    const RasterKernels* raster;
};

const SimdKernels& simd_kernels();  // the fastest that this processor runs, or the one that was forced
const char* const* simd_levels();   // names that this build has and this processor runs, best first, then null
bool force_simd(const char* name);  // one of simd_levels(), "" to choose anew; false: there is no such level

}  // namespace dfn
