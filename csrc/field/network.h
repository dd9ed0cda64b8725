// The network as the vector loops of the CPU take it, its gradient, and their scratch memory.
#pragma once
#include "base/blocks.h"
#include "field/field.h"

namespace dfn {

constexpr int kTile = 16;  // inputs are padded to multiples of it

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

// What the dense layers need of memory for one block; row k of an array is unit or output k.
struct alignas(64) Scratch {
    float fired[kMaxHidden][kLanes], mask[kMaxHidden][kLanes];  // max(z, 0); 1 where z > 0
    float dz[kMaxHidden][kLanes], q[kMaxInputs][kLanes];
    float o[kOutputs][kLanes], d[kOutputs][kLanes], grad[3][kLanes];
    float transposed[kLanes][kMaxInputs];
};

}  // namespace dfn
