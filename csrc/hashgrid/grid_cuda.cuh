// A level of the hash grid on CUDA: a thread has a point, a warp has 32 points that follow each other along rays, so
// that on coarse levels neighbours share a cell.
#pragma once
#include <cuda_fp16.h>

#include "base/cuda_util.cuh"
#include "hashgrid/hashgrid.h"

namespace dfn::cuda {

// A point in one level: rows of its 8 corners, relative to the level's first.
struct Corners {
    uint32_t cell[3], row[8];
    Vec3<float> weight, slope;
};

__device__ inline Corners corners_of(const GridLayout& g, int level, Vec3<float> u) {
    const float scale = g.scale[level];
    const Axis<float> x = locate(u.x, scale, g.smooth), y = locate(u.y, scale, g.smooth);
    const Axis<float> z = locate(u.z, scale, g.smooth);
    Corners at{{x.cell, y.cell, z.cell}, {}, {x.weight, y.weight, z.weight}, {x.slope, y.slope, z.slope}};
    const uint32_t resolution = g.resolution[level], rows = g.rows[level];
    const bool dense = is_dense(g, level);
    DFN_UNROLL
    for (uint32_t c = 0; c < 8; ++c) {
        const uint32_t i = x.cell + (c & 1), j = y.cell + ((c >> 1) & 1), k = z.cell + (c >> 2);
        at.row[c] = dense ? dense_row(i, j, k, resolution, rows) : hashed_row(i, j, k, rows);
    }
    return at;
}

// atomicAdd of a float2: sm_90, and a toolkit that knows it (12.1).
#if __CUDA_ARCH__ >= 900 && (__CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 1))
#define DFN_ADDS_PAIRS
#endif

// target[0..N) += value[0..N). Nothing is returned, so that no answer has to come back from the L2 cache.
template <int N>  // 1 or 2
__device__ void reduce(float* target, const float (&value)[N]) {
#ifdef DFN_ADDS_PAIRS
    if constexpr (N == 2)
        atomicAdd(reinterpret_cast<float2*>(target), make_float2(value[0], value[1]));
    else
        atomicAdd(target, value[0]);
#else
    for (int f = 0; f < N; ++f) atomicAdd(target + f, value[f]);
#endif
}

// The last lane of this lane's run: lanes side by side that are in one cell.
__device__ inline unsigned end_of_run(const Corners& at, unsigned lane, unsigned& heads) {
    bool same = lane > 0;
    for (int axis = 0; axis < 3; ++axis) {
        const uint32_t before = __shfl_up_sync(kAllLanes, at.cell[axis], 1);
        same = same && before == at.cell[axis];
    }
    heads = __ballot_sync(kAllLanes, !same);
    const unsigned above = lane == kWarp - 1 ? 0u : heads >> (lane + 1);
    return above ? lane + __ffs(int(above)) - 1 : kWarp - 1;
}

// Adds out[f][c] to features f of corner c's row, for the whole warp. On levels so coarse that runs have four lanes or
// more on average, each run is summed first and added once. `live` lanes come first; the others' `out` must be zero.
// For N = 2, features and grad must be even: pairs of floats are added as one on sm_90.
template <int N>
__device__ void scatter_warp(float* grad, int features, const Corners& at, bool live, float (&out)[N][8]) {
    const unsigned lane = threadIdx.x % kWarp;
    unsigned heads;
    const unsigned last = end_of_run(at, lane, heads);
    const bool merge = __popc(heads) <= int(kWarp / 4);
    for (unsigned reach = 1; merge && reach < kWarp; reach *= 2) {
        if (!__any_sync(kAllLanes, lane + reach <= last)) break;
        for (int f = 0; f < N; ++f)
            for (int c = 0; c < 8; ++c) {
                const float other = __shfl_down_sync(kAllLanes, out[f][c], reach);
                if (lane + reach <= last) out[f][c] += other;
            }
    }
    if (!live || (merge && !(heads >> lane & 1))) return;
    for (int c = 0; c < 8; ++c) {
        float value[N];
        for (int f = 0; f < N; ++f) value[f] = out[f][c];
        reduce(grad + int64_t(at.row[c]) * features, value);
    }
}

__device__ inline float2 load_pair(const float* at) { return *reinterpret_cast<const float2*>(at); }
__device__ inline float2 load_pair(const __half* at) { return __half22float2(*reinterpret_cast<const __half2*>(at)); }

// The 8 corners' values of both features; the table, of rows of two, must be aligned like a pair of them.
template <class Value>
__device__ void gather_pairs(const Value* table, const Corners& at, float (&v)[2][8]) {
    DFN_UNROLL
    for (int c = 0; c < 8; ++c) {
        const float2 pair = load_pair(table + 2 * int64_t(at.row[c]));
        v[0][c] = pair.x;
        v[1][c] = pair.y;
    }
}

inline bool holds_pairs(const void* address) { return reinterpret_cast<uintptr_t>(address) % sizeof(float2) == 0; }

}  // namespace dfn::cuda
