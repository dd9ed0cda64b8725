// Rows of tensors, three numbers each, to and from blocks of samples: structure of arrays.
#pragma once
#include "base/blocks.h"
#include "base/simd.h"

namespace dfn::DFN_SIMD_LEVEL {

typedef float Row[kLanes];  // one number of each sample

// out[axis][i] = p[3 (begin + i) + axis]; zero from `live` on.
DFN_HD void split3(const float* p, int64_t begin, int live, Row (&out)[3]) {
    const float* const first = p + 3 * begin;
    if (live == kLanes)
        for (int i = 0; i < kLanes; ++i) {
            out[0][i] = first[3 * i];
            out[1][i] = first[3 * i + 1];
            out[2][i] = first[3 * i + 2];
        }
    else
        for (int i = 0; i < kLanes; ++i)
            for (int axis = 0; axis < 3; ++axis) out[axis][i] = i < live ? first[3 * i + axis] : 0.0f;
}

DFN_HD void join3(const Row (&in)[3], int64_t begin, int live, float* p) {
    float* const first = p + 3 * begin;
    if (live == kLanes)
        for (int i = 0; i < kLanes; ++i) {
            first[3 * i] = in[0][i];
            first[3 * i + 1] = in[1][i];
            first[3 * i + 2] = in[2][i];
        }
    else
        for (int i = 0; i < live; ++i)
            for (int axis = 0; axis < 3; ++axis) first[3 * i + axis] = in[axis][i];
}

DFN_HD void load_row(const float* p, int64_t begin, int live, Row& out) {
    for (int i = 0; i < kLanes; ++i) out[i] = i < live ? p[begin + i] : 0.0f;
}

DFN_HD void store_row(const Row& in, int64_t begin, int live, float* p) {
    for (int i = 0; i < live; ++i) p[begin + i] = in[i];
}

DFN_HD Vec3<Floats> load_rows(const Row (&p)[3], int i) { return {load(p[0] + i), load(p[1] + i), load(p[2] + i)}; }
DFN_HD void store_rows(Row (&p)[3], int i, Vec3<Floats> v) {
    store(p[0] + i, v.x);
    store(p[1] + i, v.y);
    store(p[2] + i, v.z);
}

}  // namespace dfn::DFN_SIMD_LEVEL
