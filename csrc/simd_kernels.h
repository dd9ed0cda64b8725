// The loops that are compiled once per instruction set (simd_kernels.cpp), as a table of functions, and the memory that
// they and their launchers share. Float only: float64 runs the plain bodies, sample by sample.
#pragma once
#include "adam/adam.h"
#include "composite/composite.h"
#include "field/field.h"
#include "march/march.h"
#include "shade/shade.h"

namespace dfn {

constexpr int kLanes = 64;      // samples per block
constexpr int kTile = 16;       // inputs are padded to multiples of it
constexpr int kLookAhead = 16;  // samples of a ray that the march looks up together

// The network, padded with zeros to whole tiles; padded units never fire. W1 (hidden, inputs), W2 (4, hidden).
struct PackedNetwork {
    int inputs, hidden;                           // padded
    const float *W1, *W1_density, *b1, *W2, *b2;  // W1_density: rows of W1 times W2's first row
};

// The gradient of the network over some blocks. dz (hidden, inputs) is W1's value path; fired (hidden, inputs), the sum
// of m u^T, gives W1's normal path and that of W2's first row; units (5, hidden): W2's four rows, b1; b2 (4).
struct NetworkGradient {
    float *dz, *fired, *units, *b2;
};

// Blocks of kLanes samples, structure of arrays, one after the other: unit coordinates u (3), cotangents v of grad_h
// per unit coordinate (3), then for every input `planes` rows of kLanes floats: its value; or its value and its
// derivative along v, whose place de and q take later; or its value and its derivatives by u.
enum Planes { kValue = 1, kTangent = 2, kJacobian = 4 };

struct Blocks {
    float* memory;  // aligned to 64 bytes
    int inputs, planes;

    DFN_HD int64_t size() const { return int64_t(6 + planes * inputs) * kLanes; }  // of a block, in floats
};

// What the dense layers need of memory for one block; row k of an array is unit or output k.
struct alignas(64) Scratch {
    float fired[kMaxHidden][kLanes], mask[kMaxHidden][kLanes];  // max(z, 0); 1 where z > 0
    float dz[kMaxHidden][kLanes], q[kMaxInputs][kLanes];
    float o[kOutputs][kLanes], d[kOutputs][kLanes], grad[3][kLanes];
    float transposed[kLanes][kMaxInputs];
};

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
};

const SimdKernels& simd_kernels();  // the fastest that this processor runs, or the one that was forced
const char* const* simd_levels();   // names that this build has and this processor runs, best first, then null
bool force_simd(const char* name);  // one of simd_levels(), "" to choose anew; false: there is no such level

}  // namespace dfn
