// Backward of field_mma.cuh. Of the sums over samples, those of W1 are products too: dz^T e and mask^T t, whose left
// sides are dz and mask transposed in registers, and whose right sides are e and t, transposed once per 32 samples. A
// block has one copy of the sums; its warps work on different hidden units at a time, so that no addition needs an
// atomic.
#pragma once
#include "field/field_mma.cuh"

namespace dfn::cuda {

constexpr int kMmaBackwardBlock = 128;

// Shared memory of a block.
template <int kInputs>
struct MmaBackward {
    static constexpr int kTiles = kInputs / 8, kTile = 8 * kInputs;  // blocks of 16 bytes of a warp's tile
    int units;
    uint4 *W1, *W1_back, *W1_normal;  // B of z, of de and, times w2_0, of q
    float4* W2;                       // per unit
    float4* sums;                     // D of W1's gradient: chunk of 16 units, tile of 8 inputs, lane
    float4* d;                        // gradients of the outputs, per sample
    uint4 *e, *t;                     // this warp's tiles
    float *b1, *normal, *outputs;     // per unit; the normal path of W2's first row; W2's rows and b1, `units` each

    static __host__ size_t bytes(int hidden) {
        const size_t units = padded_units(hidden);
        return sizeof(float) * (units * (4 * kInputs + 11) + kMmaBackwardBlock * (2 * kInputs + 4));
    }
    __device__ explicit MmaBackward(int hidden) : units(padded_units(hidden)) {
        const int network = units * kInputs / 4, warp = threadIdx.x / kWarp;
        W1 = dynamic_shared<uint4>();
        W1_back = W1 + network;
        W1_normal = W1_back + network;
        W2 = reinterpret_cast<float4*>(W1_normal + network);
        sums = W2 + units;
        d = sums + network;
        uint4* const tiles = reinterpret_cast<uint4*>(d + kMmaBackwardBlock);
        e = tiles + 2 * warp * kTile;
        t = e + kTile;
        d += warp * kWarp;
        b1 = reinterpret_cast<float*>(tiles + kMmaBackwardBlock / kWarp * 2 * kTile);
        normal = b1 + units;
        outputs = normal + units;
    }
};

template <int kInputs>
__device__ void prepare_backward(const FieldModel<float>& m, const MmaBackward<kInputs>& s) {
    load_W1<kInputs>(m, s.units, s.W1);
    load_W1_back<kInputs>(m, s.units, nullptr, s.W1_back);
    load_W1_back<kInputs>(m, s.units, m.W2, s.W1_normal);
    load_units(m, s.units, s.W2, s.b1);
    for (int k = threadIdx.x; k < s.units * kInputs / 4; k += blockDim.x) s.sums[k] = make_float4(0, 0, 0, 0);
    for (int k = threadIdx.x; k < 6 * s.units; k += blockDim.x) s.normal[k] = 0.f;  // outputs with it
    __syncthreads();
}

// Samples as rows to samples as columns: the tile's encodings, already in `rows`, as B, in the order of the lanes.
template <int kInputs>
__device__ void transpose_tile(const Rows<kInputs / 16>& rows, int lane, uint4* tile) {
    DFN_UNROLL
    for (int mu = 0; mu < 2; ++mu) DFN_UNROLL
    for (int k = 0; k < kInputs / 8; ++k) {
        const uint32_t *high = rows.high[mu][k / 2] + k % 2 * 2, *low = rows.low[mu][k / 2] + k % 2 * 2;
        tile[(mu * (kInputs / 8) + k) * int(kWarp) + lane] = {
            transpose8(high[0]), transpose8(high[1]), transpose8(low[0]), transpose8(low[1])};
    }
}

// The A of units as rows from that of samples as rows.
__device__ inline void transpose_units(const uint32_t (&a)[4], uint32_t (&transposed)[4]) {
    transposed[0] = transpose8(a[0]);
    transposed[1] = transpose8(a[2]);
    transposed[2] = transpose8(a[1]);
    transposed[3] = transpose8(a[3]);
}

// dz of 16 units, and this chunk's share of the gradients of W2 and b1.
template <int kInputs>
__device__ void output_gradient(
    const MmaBackward<kInputs>& s, int chunk, int lane, const float (&z)[2][2][4], float (&dz)[2][2][4]) {
    float v[4][kOutputs + 1] = {};  // per unit of this lane: W2's column, b1
    DFN_UNROLL
    for (int row = 0; row < 4; ++row) {
        const float4 d = s.d[lane / 4 * 4 + row];
        DFN_UNROLL
        for (int k = 0; k < 4; ++k) {
            const float4 w = s.W2[16 * chunk + k / 2 * 8 + lane % 4 * 2 + k % 2];
            const float here = z[row / 2][k / 2][row % 2 * 2 + k % 2], fired = max0(here);
            const float back = here > 0.f ? w.x * d.x + w.y * d.y + w.z * d.z + w.w * d.w : 0.f;
            v[k][0] += fired * d.x;
            v[k][1] += fired * d.y;
            v[k][2] += fired * d.z;
            v[k][3] += fired * d.w;
            v[k][4] += back;
            dz[row / 2][k / 2][row % 2 * 2 + k % 2] = back;
        }
    }
    // Over the eight groups; pairs of units, then units, are shared out between lanes on the way.
    const bool upper = lane & 16, second = lane & 8;
    const int mine = (upper ? 8 : 0) + lane % 4 * 2 + (second ? 1 : 0);
    DFN_UNROLL
    for (int c = 0; c <= kOutputs; ++c) {
        for (int k = 0; k < 2; ++k) {
            const float other = __shfl_xor_sync(kAllLanes, upper ? v[k][c] : v[k + 2][c], 16);
            v[k][c] = (upper ? v[k + 2][c] : v[k][c]) + other;
        }
        float sum = second ? v[1][c] : v[0][c];
        sum += __shfl_xor_sync(kAllLanes, second ? v[0][c] : v[1][c], 8);
        sum += __shfl_xor_sync(kAllLanes, sum, 4);
        if (!(lane & 4)) s.outputs[c * s.units + 16 * chunk + mine] += sum;
    }
}

// Two neighbouring entries of W1, from their split.
__device__ inline float dot_pair(uint32_t high, uint32_t low, float x, float y) {
    return (low_bf16(high) + low_bf16(low)) * x + (high_bf16(high) + high_bf16(low)) * y;
}

// This chunk's share of W1's gradient, and of the normal path of W2's first row. dz and fired: units as rows.
template <int kInputs>
__device__ void sum_products(const MmaBackward<kInputs>& s, int chunk, int lane, const uint32_t (&high)[2][4],
    const uint32_t (&low)[2][4], const uint32_t (&fired)[2][4]) {
    constexpr int kTiles = kInputs / 8, kSteps = kInputs / 16;
    const float w0 = s.W2[16 * chunk + lane / 4].x, w1 = s.W2[16 * chunk + 8 + lane / 4].x;
    float first = 0.f, second = 0.f;  // units g and g + 8
    DFN_UNROLL_BY(2)                  // not more: the loads would come first, all at once, and take the registers
    for (int k = 0; k < kTiles; ++k) {
        float value[4] = {}, normal[4] = {};
        for (int mu = 0; mu < 2; ++mu) {
            multiply_add(value, high[mu], low[mu], s.e[(mu * kTiles + k) * int(kWarp) + lane]);
            multiply_add(normal, fired[mu], s.t[(mu * kTiles + k) * int(kWarp) + lane]);
        }
        const uint4 a = s.W1[(2 * chunk * kSteps + k / 2) * int(kWarp) + lane];
        const uint4 b = s.W1[((2 * chunk + 1) * kSteps + k / 2) * int(kWarp) + lane];
        first += k % 2 ? dot_pair(a.y, a.w, normal[0], normal[1]) : dot_pair(a.x, a.z, normal[0], normal[1]);
        second += k % 2 ? dot_pair(b.y, b.w, normal[2], normal[3]) : dot_pair(b.x, b.z, normal[2], normal[3]);
        float4& sum = s.sums[(chunk * kTiles + k) * int(kWarp) + lane];
        const float4 old = sum;
        sum = make_float4(old.x + value[0] + w0 * normal[0], old.y + value[1] + w0 * normal[1],
            old.z + value[2] + w1 * normal[2], old.w + value[3] + w1 * normal[3]);
    }
    for (int with = 1; with < 4; with *= 2) {
        first += __shfl_xor_sync(kAllLanes, first, with);
        second += __shfl_xor_sync(kAllLanes, second, with);
    }
    if (lane % 4 == 0) {
        s.normal[16 * chunk + lane / 4] += first;
        s.normal[16 * chunk + 8 + lane / 4] += second;
    }
}

// 16 hidden units of the warp's samples: de and q grow, and the block's sums.
template <int kInputs>
__device__ void backward_chunk(const MmaBackward<kInputs>& s, int chunk, int lane, const Rows<kInputs / 16>& rows,
    float (&de)[2][kInputs / 8][4], float (&q)[2][kInputs / 8][4]) {
    float z[2][2][4], dz[2][2][4];
    hidden_units(s.W1, s.b1, chunk, lane, rows, z);
    output_gradient(s, chunk, lane, z, dz);
    uint32_t high[2][4], low[2][4], fired[2][4];
    DFN_UNROLL
    for (int mu = 0; mu < 2; ++mu) {
        fired_units(z[mu], fired[mu]);
        for (int k = 0; k < 4; ++k) {
            const Split split = split_bf16(dz[mu][k / 2][k % 2 * 2], dz[mu][k / 2][k % 2 * 2 + 1]);
            high[mu][k] = split.high;
            low[mu][k] = split.low;
        }
    }
    DFN_UNROLL
    for (int k = 0; k < kInputs / 8; ++k) {
        const int at = (chunk * (kInputs / 8) + k) * int(kWarp) + lane;
        const uint4 b = s.W1_back[at], normal = s.W1_normal[at];
        for (int mu = 0; mu < 2; ++mu) {
            multiply_add(de[mu][k], high[mu], low[mu], b);
            multiply_add(q[mu][k], fired[mu], normal);
        }
    }
    uint32_t high_units[2][4], low_units[2][4], fired_rows[2][4];
    for (int mu = 0; mu < 2; ++mu) {
        transpose_units(high[mu], high_units[mu]);
        transpose_units(low[mu], low_units[mu]);
        transpose_units(fired[mu], fired_rows[mu]);
    }
    sum_products(s, chunk, lane, high_units, low_units, fired_rows);
}

// One scatter per level, of de and q, each in its sample's row of a tile.
template <int kInputs>
__device__ void scatter_warp_tile(const FieldModel<float>& m, float* grad_table, Vec3<float> u, Vec3<float> v,
    bool live, int lane, const uint4* de, const uint4* q) {
    for_each_level<kInputs / 2>(m, u, [&](int level, const Corners& at, float weight) {
        const uint4 a = de[block_at<kInputs>(lane, level / 2)], b = q[block_at<kInputs>(lane, level / 2)];
        const Vec3<float> sv = at.slope * v;
        float out[2][8];
        for (int f = 0; f < 2; ++f) {
            const float value = __uint_as_float(level % 2 ? (f ? a.w : a.z) : (f ? a.y : a.x));
            const float normal = __uint_as_float(level % 2 ? (f ? b.w : b.z) : (f ? b.y : b.x));
            trilinear_adjoint(weight * value, (weight * normal) * sv, at.weight, out[f]);
        }
        scatter_warp(grad_table + 2 * m.grid.offset[level], 2, at, live, out);
    });
}

// The block's sums to global memory.
template <int kInputs>
__device__ void add_sums(const MmaBackward<kInputs>& s, int hidden, float* to) {
    const float* const sums = reinterpret_cast<const float*>(s.sums);
    for (int k = threadIdx.x; k < hidden * kInputs; k += blockDim.x) {
        const int unit = k / kInputs, input = k % kInputs;
        const int tile = unit / 16 * (kInputs / 8) + input / 16 * 2 + input % 4 / 2;
        const int lane = unit % 8 * 4 + input % 16 / 4;
        atomicAdd(to + k, sums[(tile * int(kWarp) + lane) * 4 + unit % 16 / 8 * 2 + input % 2]);
    }
    to += hidden * kInputs;
    for (int k = threadIdx.x; k < hidden * (kOutputs + 1); k += blockDim.x) {
        const int c = k / hidden - 1, unit = k % hidden;  // c = -1: b1
        atomicAdd(to + k, s.outputs[(c < 0 ? kOutputs : c) * s.units + unit] + (c == 0 ? s.normal[unit] : 0.f));
    }
}

template <int kInputs, class Value>
__global__ void __launch_bounds__(kMmaBackwardBlock, 2) field_backward_mma_kernel(const Field<float> p) {
    const FieldModel<float>& m = p.model;
    const int64_t live_count = live_rows(p.n, p.count);
    if (int64_t(blockIdx.x) * kMmaBackwardBlock >= live_count) return;  // nothing to add
    const MmaBackward<kInputs> s(m.hidden);
    prepare_backward(m, s);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, chunks = s.units / 16;
    constexpr int kWarps = kMmaBackwardBlock / int(kWarp);
    const int turns = chunks > kWarps ? chunks : kWarps;  // in each, no two warps have the same chunk
    float bias[kOutputs] = {};
    for (int64_t first = int64_t(blockIdx.x) * kMmaBackwardBlock; first < live_count;
        first += int64_t(gridDim.x) * kMmaBackwardBlock) {
        const int64_t i = first + threadIdx.x;
        const bool live = i < live_count, any = first + warp * int(kWarp) < live_count;
        const auto unit = [&] { return to_unit_cube(live ? load3(p.x, i) : Vec3<float>{}, m.bound); };
        const auto tangent = [&] { return 1.f / (2.f * m.bound) * (live ? load3(p.d_grad_h, i) : Vec3<float>{}); };
        Rows<kInputs / 16> rows = {};
        if (any) {
            float d[kOutputs] = {};
            if (live) load_output_gradient(p, i, d, 1);
            for (int c = 0; c < kOutputs; ++c) bias[c] += d[c];
            s.d[lane] = make_float4(d[0], d[1], d[2], d[3]);
            encode_warp<kInputs, Value, true>(m, unit(), tangent(), live, lane, s.e, s.t);
            load_rows<kInputs>(s.t, lane, rows);
            __syncwarp();
            transpose_tile<kInputs>(rows, lane, s.t);
            load_rows<kInputs>(s.e, lane, rows);
            __syncwarp();
            transpose_tile<kInputs>(rows, lane, s.e);
        }
        float de[2][kInputs / 8][4] = {}, q[2][kInputs / 8][4] = {};
        for (int turn = 0; turn < turns; ++turn) {
            const int chunk = (turn + warp) % turns;
            if (any && chunk < chunks) backward_chunk(s, chunk, lane, rows, de, q);
            __syncthreads();
        }
        if (!any) continue;
        store_rows<kInputs>(de, lane, s.e);
        store_rows<kInputs>(q, lane, s.t);
        __syncwarp();
        // Read again: in between there are no registers for them.
        scatter_warp_tile<kInputs>(m, p.grad_table, unit(), tangent(), live, lane, s.e, s.t);
    }
    add_sums(s, m.hidden, p.grad_weights);
    DFN_UNROLL
    for (int c = 0; c < kOutputs; ++c) {
        for (int with = 1; with < int(kWarp); with *= 2) bias[c] += __shfl_xor_sync(kAllLanes, bias[c], with);
        if (lane == 0) atomicAdd(p.grad_weights + m.hidden * (kInputs + 1 + kOutputs) + c, bias[c]);
    }
}

}  // namespace dfn::cuda
