// Blocks of samples, structure of arrays: what the vector loops of the CPU work on, and their launchers keep.
#pragma once
#include "base/hd.h"

namespace dfn {

constexpr int kLanes = 64;  // samples per block

// Blocks of kLanes samples, structure of arrays, one after the other: unit coordinates u (3), cotangents v of grad_h
// per unit coordinate (3), then for every input `planes` rows of kLanes floats: its value; or its value and its
// derivative along v, whose place de and q take later; or its value and its derivatives by u.
enum Planes { kValue = 1, kTangent = 2, kJacobian = 4 };

struct Blocks {
    float* memory;  // aligned to 64 bytes
    int inputs, planes;

    DFN_HD int64_t size() const { return int64_t(6 + planes * inputs) * kLanes; }  // of a block, in floats
};

}  // namespace dfn
