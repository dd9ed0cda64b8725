// The field on CUDA for 16 or 8 levels of 2 features, the shapes that fields have: a thread has a sample, whose kInputs
// inputs stay in registers; weights are read from shared memory. Other shapes: the kernels in cuda.cu.
//
// Backward recomputes the encoding, sums the gradients of the weights over tiles of samples in shared memory without
// atomics, and scatters the value and the normal path at once. With m = [z > 0], G = sum over samples of m t^T gives
// the normal path's share of both W1, w2_0 G, and of W2's first row, (W1 * G) summed over inputs: W1 t is not needed.
#pragma once
#include "base/cuda_util.cuh"
#include "field/field.h"
#include "hashgrid/grid_cuda.cuh"

namespace dfn::cuda {

__device__ __host__ inline int weight_count(int inputs, int hidden) {
    return hidden * (inputs + 1 + kOutputs) + kOutputs;
}

// W1, b1, W2, b2 one after the other, as grad_weights has them.
template <int kInputs>
__device__ void load_weights(const FieldModel<float>& m, float* to) {
    const int hidden = m.hidden;
    for (int k = threadIdx.x; k < hidden * kInputs; k += blockDim.x) to[k] = m.W1[k];
    to += hidden * kInputs;
    for (int k = threadIdx.x; k < hidden; k += blockDim.x) to[k] = m.b1[k];
    to += hidden;
    for (int k = threadIdx.x; k < kOutputs * hidden; k += blockDim.x) to[k] = m.W2[k];
    to += kOutputs * hidden;
    for (int k = threadIdx.x; k < kOutputs; k += blockDim.x) to[k] = m.b2[k];
}

template <int kInputs>
__device__ float dot_row(const float* row, const float (&e)[kInputs]) {
    float sum = 0;
    DFN_UNROLL
    for (int k = 0; k < kInputs; k += 4) {
        const float4 w = *reinterpret_cast<const float4*>(row + k);
        sum += w.x * e[k] + w.y * e[k + 1] + w.z * e[k + 2] + w.w * e[k + 3];
    }
    return sum;
}

template <int kInputs>
__device__ void add_row(float factor, const float* row, float (&to)[kInputs]) {
    DFN_UNROLL
    for (int k = 0; k < kInputs; k += 4) {
        const float4 w = *reinterpret_cast<const float4*>(row + k);
        to[k] += factor * w.x;
        to[k + 1] += factor * w.y;
        to[k + 2] += factor * w.z;
        to[k + 3] += factor * w.w;
    }
}

// fn(level, corners, weight of the level) for every level that counts.
template <int kLevels, class Fn>
__device__ void for_each_level(const FieldModel<float>& m, Vec3<float> u, Fn fn) {
    DFN_UNROLL
    for (int level = 0; level < kLevels; ++level)
        if (m.level_weight[level] != 0.f) fn(level, corners_of(m.grid, level, u), m.level_weight[level]);
}

// What the kernels read: the table, or its float16 shadow.
template <class Value>
__device__ const Value* values_of(const FieldModel<float>& m) {
    if constexpr (sizeof(Value) == sizeof(float))
        return m.table;
    else
        return reinterpret_cast<const Value*>(m.shadow);
}

constexpr int kForwardBlock = 128;

template <int kInputs, class Value, bool kGradient>
__global__ void __launch_bounds__(kForwardBlock, 4) field_forward_tile_kernel(const Field<float> p) {
    const FieldModel<float>& m = p.model;
    float *W1 = dynamic_shared<float>(), *b1 = W1 + m.hidden * kInputs, *W2 = b1 + m.hidden;
    load_weights<kInputs>(m, W1);
    __syncthreads();
    const int64_t live = live_rows(p.n, p.count);
    const float per_unit = 1.f / (2.f * m.bound);
    DFN_GRID_STRIDE(i, p.n) {
        if (i >= live) {
            p.h[i] = 0.f;
            if (kGradient) {
                store3(p.rgb_raw, i, Vec3<float>{});
                store3(p.grad_h, i, Vec3<float>{});
            }
            continue;
        }
        const Vec3<float> x = load3(p.x, i), u = to_unit_cube(x, m.bound);
        float e[kInputs] = {}, q[kInputs] = {}, o[kOutputs];
        for_each_level<kInputs / 2>(m, u, [&](int level, const Corners& at, float weight) {
            float v[2][8];
            gather_pairs(values_of<Value>(m) + 2 * m.grid.offset[level], at, v);
            e[2 * level] = weight * trilinear(v[0], at.weight).value;
            e[2 * level + 1] = weight * trilinear(v[1], at.weight).value;
        });
        for (int c = 0; c < kOutputs; ++c) o[c] = m.b2[c];
        for (int j = 0; j < m.hidden; ++j) {
            const float z = dot_row(W1 + j * kInputs, e) + b1[j], fired = max0(z);
            for (int c = 0; c < (kGradient ? kOutputs : 1); ++c) o[c] += W2[c * m.hidden + j] * fired;
            if (kGradient) add_row(z > 0.f ? W2[j] : 0.f, W1 + j * kInputs, q);
        }
        Vec3<float> grad{};
        p.h[i] = o[0] + blob_density(m.blob, x, grad);
        if (!kGradient) continue;
        for_each_level<kInputs / 2>(m, u, [&](int level, const Corners& at, float weight) {
            float v[2][8];
            gather_pairs(values_of<Value>(m) + 2 * m.grid.offset[level], at, v);
            const Vec3<float> g0 = trilinear(v[0], at.weight).grad, g1 = trilinear(v[1], at.weight).grad;
            grad = grad + weight * per_unit * (at.slope * (q[2 * level] * g0 + q[2 * level + 1] * g1));
        });
        store3(p.grad_h, i, grad);
        store3(p.rgb_raw, i, Vec3<float>{o[1], o[2], o[3]});
    }
}

constexpr int kTile = 64;                               // samples and threads of a block of the backward
constexpr int kUnits = 16;                              // hidden units at a time
constexpr int kRow = kTile + 1, kUnitRow = kUnits + 4;  // padded: neighbouring lanes use different banks

// Shared memory of a block.
template <int kInputs>
struct Tile {
    float *weights, *sums;  // W1, b1, W2, b2; their gradient
    float* normal_sums;     // (hidden) the normal path's share of W2's first row
    float *e, *t, *d;       // input k of sample s at [k * kRow + s], output c at [c * kTile + s]
    float *dz, *fired;      // unit u of the current kUnits of sample s at [s * kUnitRow + u]

    static __device__ __host__ int padded(int n) { return (n + 3) / 4 * 4; }
    static __host__ size_t bytes(int hidden) {
        const int of_model = 2 * padded(weight_count(kInputs, hidden)) + padded(hidden);
        return sizeof(float) * (of_model + 2 * kUnitRow * kTile + 2 * kInputs * kRow + kOutputs * kTile);
    }
    __device__ explicit Tile(int hidden) {
        const int count = padded(weight_count(kInputs, hidden));
        weights = dynamic_shared<float>();
        sums = weights + count;
        normal_sums = sums + count;
        dz = normal_sums + padded(hidden);
        fired = dz + kUnitRow * kTile;
        e = fired + kUnitRow * kTile;
        t = e + kInputs * kRow;
        d = t + kInputs * kRow;
    }
};

// e into registers, e and t into the tile; zeros for a thread without a sample.
template <class Value, int kInputs>
__device__ void encode_tile(const FieldModel<float>& m, Vec3<float> u, Vec3<float> v, bool live,
    const Tile<kInputs>& tile, float (&e)[kInputs]) {
    float t[kInputs] = {};
    for (int k = 0; k < kInputs; ++k) e[k] = 0.f;
    for_each_level<kInputs / 2>(m, u, [&](int level, const Corners& at, float weight) {
        if (!live) return;
        float values[2][8];
        gather_pairs(values_of<Value>(m) + 2 * m.grid.offset[level], at, values);
        for (int f = 0; f < 2; ++f) {
            const Trilinear<float> y = trilinear(values[f], at.weight);
            e[2 * level + f] = weight * y.value;
            t[2 * level + f] = weight * dot(at.slope * y.grad, v);
        }
    });
    DFN_UNROLL
    for (int k = 0; k < kInputs; ++k) tile.e[k * kRow + threadIdx.x] = e[k], tile.t[k * kRow + threadIdx.x] = t[k];
}

// This thread's sample through units [first, first + kUnits): dz and fired into the tile, de and q grow.
template <int kInputs>
__device__ void backward_units(const Tile<kInputs>& tile, int hidden, int first, const float (&e)[kInputs],
    const float (&d)[kOutputs], float (&de)[kInputs], float (&q)[kInputs]) {
    const float *b1 = tile.weights + hidden * kInputs, *W2 = b1 + hidden;
    for (int u = 0; u < kUnits; ++u) {
        const int j = first + u;
        float z = 0.f, dz = 0.f;
        if (j < hidden) {
            const float* row = tile.weights + j * kInputs;
            z = dot_row(row, e) + b1[j];
            if (z > 0.f)
                for (int c = 0; c < kOutputs; ++c) dz += W2[c * hidden + j] * d[c];
            add_row(dz, row, de);
            add_row(z > 0.f ? W2[j] : 0.f, row, q);
        }
        tile.dz[threadIdx.x * kUnitRow + u] = dz;
        tile.fired[threadIdx.x * kUnitRow + u] = max0(z);
    }
}

// The tile's share of W1's gradient for the current units: kInputs lanes side by side are the inputs, and each such
// group has kMine of the units.
template <int kInputs>
__device__ void sum_W1(const Tile<kInputs>& tile, int hidden, int first) {
    constexpr int kMine = kUnits / (kTile / kInputs);
    static_assert(kMine % 4 == 0 && int(kWarp) % kInputs == 0);
    const int lane = threadIdx.x % kInputs, mine = threadIdx.x / kInputs * kMine;
    float value[kMine] = {}, normal[kMine] = {};
    for (int s = 0; s < kTile; ++s) {
        const float e = tile.e[lane * kRow + s], t = tile.t[lane * kRow + s];
        const float *dz = tile.dz + s * kUnitRow + mine, *fired = tile.fired + s * kUnitRow + mine;
        DFN_UNROLL
        for (int u = 0; u < kMine; u += 4) {
            const float4 z = *reinterpret_cast<const float4*>(dz + u), on = *reinterpret_cast<const float4*>(fired + u);
            value[u] += z.x * e;
            value[u + 1] += z.y * e;
            value[u + 2] += z.z * e;
            value[u + 3] += z.w * e;
            normal[u] += on.x > 0.f ? t : 0.f;
            normal[u + 1] += on.y > 0.f ? t : 0.f;
            normal[u + 2] += on.z > 0.f ? t : 0.f;
            normal[u + 3] += on.w > 0.f ? t : 0.f;
        }
    }
    const float *W1 = tile.weights, *w2 = W1 + hidden * (kInputs + 1);
    DFN_UNROLL
    for (int u = 0; u < kMine; ++u) {
        const int j = first + mine + u;
        const bool exists = j < hidden;
        if (exists) tile.sums[j * kInputs + lane] += value[u] + w2[j] * normal[u];
        float sum = exists ? W1[j * kInputs + lane] * normal[u] : 0.f;
        for (int reach = kInputs / 2; reach; reach /= 2) sum += __shfl_xor_sync(kAllLanes, sum, reach);
        if (exists && lane == 0) tile.normal_sums[j] += sum;
    }
}

// The tile's share of the gradients of b1 and W2 for the current units: a thread sums one of them.
template <int kInputs>
__device__ void sum_outputs(const Tile<kInputs>& tile, int hidden, int first) {
    for (int k = threadIdx.x; k < kUnits * (kOutputs + 1); k += kTile) {
        const int u = k % kUnits, c = k / kUnits - 1, j = first + u;  // c = -1: b1
        if (j >= hidden) continue;
        float sum = 0.f;
        for (int s = 0; s < kTile; ++s)
            sum += c < 0 ? tile.dz[s * kUnitRow + u] : tile.fired[s * kUnitRow + u] * tile.d[c * kTile + s];
        tile.sums[hidden * (kInputs + 1 + c) + j] += sum;
    }
}

template <int kInputs>
__device__ void scatter_sample(const FieldModel<float>& m, float* grad_table, Vec3<float> u, Vec3<float> v, bool live,
    const float (&de)[kInputs], const float (&q)[kInputs]) {
    for_each_level<kInputs / 2>(m, u, [&](int level, const Corners& at, float weight) {
        float out[2][8];
        for (int f = 0; f < 2; ++f) {
            const int k = 2 * level + f;
            trilinear_adjoint(weight * de[k], (weight * q[k]) * (at.slope * v), at.weight, out[f]);
        }
        scatter_warp(grad_table + 2 * m.grid.offset[level], 2, at, live, out);
    });
}

template <int kInputs, class Value>
__global__ void __launch_bounds__(kTile) field_backward_tile_kernel(const Field<float> p) {
    const FieldModel<float>& m = p.model;
    const int64_t live_count = live_rows(p.n, p.count);
    if (int64_t(blockIdx.x) * kTile >= live_count) return;  // nothing to add: the buffers were longer than the rays
    const Tile<kInputs> tile(m.hidden);
    const int thread = threadIdx.x, weights = weight_count(kInputs, m.hidden);
    load_weights<kInputs>(m, tile.weights);
    for (int k = thread; k < weights; k += kTile) tile.sums[k] = 0.f;
    for (int k = thread; k < m.hidden; k += kTile) tile.normal_sums[k] = 0.f;
    const float per_unit = 1.f / (2.f * m.bound);
    for (int64_t first = int64_t(blockIdx.x) * kTile; first < live_count; first += int64_t(gridDim.x) * kTile) {
        const int64_t i = first + thread;
        const bool live = i < live_count;
        const Vec3<float> u = to_unit_cube(live ? load3(p.x, i) : Vec3<float>{}, m.bound);
        const Vec3<float> v = per_unit * (live ? load3(p.d_grad_h, i) : Vec3<float>{});
        float e[kInputs], de[kInputs] = {}, q[kInputs] = {}, d[kOutputs] = {};
        if (live) load_output_gradient(p, i, d, 1);
        for (int c = 0; c < kOutputs; ++c) tile.d[c * kTile + thread] = d[c];
        encode_tile<Value>(m, u, v, live, tile, e);
        __syncthreads();
        if (thread < kOutputs)
            for (int s = 0; s < kTile; ++s) tile.sums[weights - kOutputs + thread] += tile.d[thread * kTile + s];
        for (int unit = 0; unit < m.hidden; unit += kUnits) {
            backward_units(tile, m.hidden, unit, e, d, de, q);
            __syncthreads();
            sum_W1(tile, m.hidden, unit);
            sum_outputs(tile, m.hidden, unit);
            __syncthreads();
        }
        scatter_sample(m, p.grad_table, u, v, live, de, q);
    }
    __syncthreads();
    const int W2 = m.hidden * (kInputs + 1);
    for (int k = thread; k < weights; k += kTile) {
        const int unit = k - W2;
        atomicAdd(p.grad_weights + k, tile.sums[k] + (unit >= 0 && unit < m.hidden ? tile.normal_sums[unit] : 0.f));
    }
}

}  // namespace dfn::cuda
