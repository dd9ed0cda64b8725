// The field with its hidden layer on tensor cores, for 16 or 8 levels of 2 features: a warp has 32 samples, each lane
// encodes one, and the products with W1 are the warp's (mma.h). Factors have 16 bits of mantissa, sums are float32; the
// mask [z > 0] is exact in bfloat16, so q = mask (w2_0 W1) takes two products where z takes three. The output layer, 6
// percent of the work, stays float32 on the ordinary units, where its inputs are.
//
// Three numberings make fragments and memory meet without conflicts of banks. Row g + 8 h of product mu is sample
// 4 g + 2 mu + h, "row" 2 mu + h of group g. Columns (of A) 2t, 2t + 1, 2t + 8, 2t + 9 of step s are inputs 16 s + 4 t
// to + 3, and so are columns 2t, 2t + 1 (of D) of tiles 2 s and 2 s + 1: 16 bytes, one block of a sample's inputs.
#pragma once
#include "base/mma.h"
#include "field/field_cuda.cuh"

namespace dfn::cuda {

constexpr int kMmaBlock = 192;  // with two blocks, twelve warps fit where 100 KB of shared memory are all there is

__device__ __host__ inline int padded_units(int hidden) { return (hidden + 15) / 16 * 16; }

// Where a warp's tile has block c (words 4 c to 4 c + 3) of a sample. Whether eight lanes have eight samples and one
// block, or the samples 4 g + row, 4 g + 4 + row and four blocks: they use all 32 banks.
template <int kInputs>
__device__ int block_at(int sample, int c) {
    static_assert(kInputs == 32 || kInputs == 16);
    if (kInputs == 32) return 8 * sample + (c ^ (sample & 7));
    return 8 * (sample / 8 * 4 + sample % 4) + ((c ^ (sample & 3)) | (sample & 4));
}

// Of {x, y, z, w}: {high xy, high zw, low xy, low zw}.
__device__ inline uint4 split_block(float x, float y, float z, float w) {
    const Split first = split_bf16(x, y), second = split_bf16(z, w);
    return {first.high, second.high, first.low, second.low};
}

// Shared memory of a block of the forward; units beyond the last are zero.
template <int kInputs>
struct MmaNetwork {
    int units;
    uint4* W1;       // B of z: tile of 8 units, step, lane
    uint4* W1_back;  // B of q: chunk of 16 units, tile of 8 inputs, lane; times w2_0
    float4* W2;      // per unit
    uint4* tiles;    // 8 * kInputs per warp
    float* b1;

    static __host__ size_t bytes(int hidden) {
        const size_t units = padded_units(hidden);
        return sizeof(float) * (units * (2 * kInputs + 5) + kMmaBlock * kInputs);
    }
    __device__ explicit MmaNetwork(int hidden) : units(padded_units(hidden)) {
        W1 = dynamic_shared<uint4>();
        W1_back = W1 + units * kInputs / 4;
        W2 = reinterpret_cast<float4*>(W1_back + units * kInputs / 4);
        tiles = reinterpret_cast<uint4*>(W2 + units);
        b1 = reinterpret_cast<float*>(tiles + kMmaBlock * kInputs / 4);
    }
};

template <int kInputs>
__device__ void load_W1(const FieldModel<float>& m, int units, uint4* to) {
    constexpr int kSteps = kInputs / 16;
    for (int k = threadIdx.x; k < units * kInputs / 4; k += blockDim.x) {
        const int lane = k % int(kWarp), step = k / int(kWarp) % kSteps, unit = k / int(kWarp) / kSteps * 8 + lane / 4;
        const float* w = m.W1 + unit * kInputs + 16 * step + lane % 4 * 4;
        to[k] = unit < m.hidden ? split_block(w[0], w[1], w[2], w[3]) : uint4{};
    }
}

// Rows of W1, times their factor unless that is null.
template <int kInputs>
__device__ void load_W1_back(const FieldModel<float>& m, int units, const float* factor, uint4* to) {
    constexpr int kTiles = kInputs / 8;
    for (int k = threadIdx.x; k < units * kInputs / 4; k += blockDim.x) {
        const int lane = k % int(kWarp), tile = k / int(kWarp) % kTiles, g = lane / 4;
        const int unit = k / int(kWarp) / kTiles * 16 + lane % 4 * 2;
        const int input = tile / 2 * 16 + g / 2 * 4 + tile % 2 * 2 + g % 2;
        float w[4];
        for (int i = 0; i < 4; ++i) {
            const int row = unit + i / 2 * 8 + i % 2;
            w[i] = row < m.hidden ? m.W1[row * kInputs + input] * (factor ? factor[row] : 1.f) : 0.f;
        }
        to[k] = split_block(w[0], w[1], w[2], w[3]);
    }
}

__device__ inline void load_units(const FieldModel<float>& m, int units, float4* W2, float* b1) {
    const int H = m.hidden;
    for (int j = threadIdx.x; j < units; j += blockDim.x) {
        W2[j] = j < H ? make_float4(m.W2[j], m.W2[H + j], m.W2[2 * H + j], m.W2[3 * H + j]) : float4{};
        b1[j] = j < H ? m.b1[j] : 0.f;
    }
}

// The values of this lane's sample into its row of tile e, split, and the derivatives along v into that of tile t;
// zeros for a lane without a sample.
template <int kInputs, class Value, bool kTangent>
__device__ void encode_warp(
    const FieldModel<float>& m, Vec3<float> u, Vec3<float> v, bool live, int lane, uint4* e, uint4* t) {
    DFN_UNROLL
    for (int c = 0; c < kInputs / 4; ++c) {
        float value[4] = {}, tangent[4] = {};
        DFN_UNROLL
        for (int k = 0; k < 2; ++k) {
            const float weight = live ? m.level_weight[2 * c + k] : 0.f;
            if (weight == 0.f) continue;
            const Corners at = corners_of(m.grid, 2 * c + k, u);
            float corners[2][8];
            gather_pairs(values_of<Value>(m) + 2 * m.grid.offset[2 * c + k], at, corners);
            for (int f = 0; f < 2; ++f) {
                const Trilinear<float> y = trilinear(corners[f], at.weight);
                value[2 * k + f] = weight * y.value;
                if (kTangent) tangent[2 * k + f] = weight * dot(at.slope * y.grad, v);
            }
        }
        e[block_at<kInputs>(lane, c)] = split_block(value[0], value[1], value[2], value[3]);
        if (kTangent) t[block_at<kInputs>(lane, c)] = split_block(tangent[0], tangent[1], tangent[2], tangent[3]);
    }
    __syncwarp();
}

// The warp's samples as the A of two products, mu = 0, 1.
template <int kSteps>
struct Rows {
    uint32_t high[2][kSteps][4], low[2][kSteps][4];
};

template <int kInputs>
__device__ void load_rows(const uint4* tile, int lane, Rows<kInputs / 16>& rows) {
    DFN_UNROLL
    for (int row = 0; row < 4; ++row) DFN_UNROLL
    for (int step = 0; step < kInputs / 16; ++step) {
        const uint4 w = tile[block_at<kInputs>(lane / 4 * 4 + row, 4 * step + lane % 4)];
        rows.high[row / 2][step][row % 2] = w.x;
        rows.high[row / 2][step][2 + row % 2] = w.y;
        rows.low[row / 2][step][row % 2] = w.z;
        rows.low[row / 2][step][2 + row % 2] = w.w;
    }
}

// z of 16 units: [mu][tile of 8 units].
template <int kSteps>
__device__ void hidden_units(
    const uint4* W1, const float* b1, int chunk, int lane, const Rows<kSteps>& rows, float (&z)[2][2][4]) {
    DFN_UNROLL
    for (int tile = 0; tile < 2; ++tile) {
        const float* bias = b1 + 16 * chunk + 8 * tile + lane % 4 * 2;
        for (int mu = 0; mu < 2; ++mu)
            for (int k = 0; k < 4; ++k) z[mu][tile][k] = bias[k % 2];
        DFN_UNROLL
        for (int step = 0; step < kSteps; ++step) {
            const uint4 b = W1[((2 * chunk + tile) * kSteps + step) * int(kWarp) + lane];
            for (int mu = 0; mu < 2; ++mu) multiply_add(z[mu][tile], rows.high[mu][step], rows.low[mu][step], b);
        }
    }
}

// [z > 0] of 16 units as the A of a product.
__device__ inline void fired_units(const float (&z)[2][4], uint32_t (&a)[4]) {
    DFN_UNROLL
    for (int k = 0; k < 4; ++k)
        a[k] = (z[k / 2][k % 2 * 2] > 0.f ? 0x3F80u : 0u) | (z[k / 2][k % 2 * 2 + 1] > 0.f ? 0x3F800000u : 0u);
}

// A D of the warp's samples and all inputs back to the tile, a float in a word: lane s then has its sample's in row s.
template <int kInputs>
__device__ void store_rows(const float (&d)[2][kInputs / 8][4], int lane, uint4* tile) {
    DFN_UNROLL
    for (int row = 0; row < 4; ++row) DFN_UNROLL
    for (int step = 0; step < kInputs / 16; ++step) {
        const float *x = d[row / 2][2 * step] + row % 2 * 2, *y = d[row / 2][2 * step + 1] + row % 2 * 2;
        tile[block_at<kInputs>(lane / 4 * 4 + row, 4 * step + lane % 4)] = {
            __float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(y[0]), __float_as_uint(y[1])};
    }
}

// Sums over the four lanes of a group, of N values per row; lane t of group g keeps row t, its own sample's.
template <int N>
__device__ void sum_rows(float (&v)[4][N], int lane, float (&out)[N]) {
    const bool last = lane & 2, odd = lane & 1;
    DFN_UNROLL
    for (int c = 0; c < N; ++c) {
        for (int row = 0; row < 2; ++row) {
            const float other = __shfl_xor_sync(kAllLanes, last ? v[row][c] : v[row + 2][c], 2);
            v[row][c] = (last ? v[row + 2][c] : v[row][c]) + other;
        }
        const float other = __shfl_xor_sync(kAllLanes, odd ? v[0][c] : v[1][c], 1);
        out[c] = (odd ? v[1][c] : v[0][c]) + other;
    }
}

// Per row, the outputs' sums over this lane's units of a chunk.
template <int N>
__device__ void output_units(const float4* W2, const float (&z)[2][2][4], int chunk, int lane, float (&o)[4][N]) {
    DFN_UNROLL
    for (int k = 0; k < 4; ++k) {
        const float4 w = W2[16 * chunk + k / 2 * 8 + lane % 4 * 2 + k % 2];
        DFN_UNROLL
        for (int row = 0; row < 4; ++row) {
            const float fired = max0(z[row / 2][k / 2][row % 2 * 2 + k % 2]);
            o[row][0] += w.x * fired;
            if constexpr (N == 4) {
                o[row][1] += w.y * fired;
                o[row][2] += w.z * fired;
                o[row][3] += w.w * fired;
            }
        }
    }
}

// The outputs of this lane's sample, without biases; and q into the tile, which has the encodings before.
template <int kInputs, int N>
__device__ void decode_warp(const MmaNetwork<kInputs>& network, uint4* tile, int lane, float (&out)[N]) {
    constexpr int kTiles = kInputs / 8;
    Rows<kInputs / 16> rows;
    load_rows<kInputs>(tile, lane, rows);
    float o[4][N] = {}, q[2][kTiles][4] = {};
    for (int chunk = 0; chunk < network.units / 16; ++chunk) {
        float z[2][2][4];
        hidden_units(network.W1, network.b1, chunk, lane, rows, z);
        output_units(network.W2, z, chunk, lane, o);
        if constexpr (N == kOutputs) {
            uint32_t fired[2][4];
            for (int mu = 0; mu < 2; ++mu) fired_units(z[mu], fired[mu]);
            DFN_UNROLL
            for (int k = 0; k < kTiles; ++k) {
                const uint4 b = network.W1_back[(chunk * kTiles + k) * int(kWarp) + lane];
                for (int mu = 0; mu < 2; ++mu) multiply_add(q[mu][k], fired[mu], b);
            }
        }
    }
    sum_rows(o, lane, out);
    __syncwarp();  // all lanes have read the encodings
    if constexpr (N == kOutputs) store_rows<kInputs>(q, lane, tile);
    __syncwarp();
}

// J^T q of one sample, q in its row of the tile.
template <int kInputs, class Value>
__device__ Vec3<float> gradient_of(const FieldModel<float>& m, Vec3<float> u, const uint4* tile, int lane) {
    const float per_unit = 1.f / (2.f * m.bound);
    Vec3<float> grad{};
    uint4 q{};
    for_each_level<kInputs / 2>(m, u, [&](int level, const Corners& at, float weight) {
        float v[2][8];
        gather_pairs(values_of<Value>(m) + 2 * m.grid.offset[level], at, v);
        q = tile[block_at<kInputs>(lane, level / 2)];
        const float q0 = __uint_as_float(level % 2 ? q.z : q.x), q1 = __uint_as_float(level % 2 ? q.w : q.y);
        const Vec3<float> g0 = trilinear(v[0], at.weight).grad, g1 = trilinear(v[1], at.weight).grad;
        grad = grad + weight * per_unit * (at.slope * (q0 * g0 + q1 * g1));
    });
    return grad;
}

template <int kInputs, class Value, bool kGradient>
__global__ void __launch_bounds__(kMmaBlock, 2) field_forward_mma_kernel(const Field<float> p) {
    const FieldModel<float>& m = p.model;
    const MmaNetwork<kInputs> network(m.hidden);
    load_W1<kInputs>(m, network.units, network.W1);
    if (kGradient) load_W1_back<kInputs>(m, network.units, m.W2, network.W1_back);
    load_units(m, network.units, network.W2, network.b1);
    __syncthreads();
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    uint4* const tile = network.tiles + warp * 8 * kInputs;
    const int64_t live_count = live_rows(p.n, p.count), stride = int64_t(gridDim.x) * kMmaBlock;
    for (int64_t first = int64_t(blockIdx.x) * kMmaBlock + warp * int(kWarp); first < p.n; first += stride) {
        const int64_t i = first + lane;
        const bool live = i < live_count;
        if (i < p.n && !live) {
            p.h[i] = 0.f;
            if (kGradient) {
                store3(p.rgb_raw, i, Vec3<float>{});
                store3(p.grad_h, i, Vec3<float>{});
            }
        }
        if (first >= live_count) continue;
        const Vec3<float> u = to_unit_cube(live ? load3(p.x, i) : Vec3<float>{}, m.bound);
        encode_warp<kInputs, Value, false>(m, u, {}, live, lane, tile, nullptr);
        float o[kGradient ? kOutputs : 1];
        decode_warp(network, tile, lane, o);
        if (!live) continue;
        const Vec3<float> x = load3(p.x, i);
        Vec3<float> grad{};
        p.h[i] = o[0] + m.b2[0] + blob_density(m.blob, x, grad);
        if constexpr (kGradient) {
            store3(p.grad_h, i, grad + gradient_of<kInputs, Value>(m, u, tile, lane));
            store3(p.rgb_raw, i, Vec3<float>{o[1] + m.b2[1], o[2] + m.b2[2], o[3] + m.b2[3]});
        }
    }
}

}  // namespace dfn::cuda
