// Products of small matrices by a warp on tensor cores: mma.sync m16n8k16, bfloat16 factors, float32 sums. A float
// travels as two bfloat16, high + low, which keep 16 bits of its mantissa; a product of two such is three of these.
//
// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"), lane = 4 g + t, a word = two bfloat16, the first one low:
//   a[0] row g, columns 2t, 2t + 1    a[1] row g + 8    a[2] row g, columns 2t + 8, 2t + 9    a[3] row g + 8 of those
//   b0   column g, rows 2t, 2t + 1    b1   rows 2t + 8, 2t + 9
//   d[0], d[1] row g, columns 2t, 2t + 1                d[2], d[3] row g + 8
// So the d of two tiles side by side, packed, are the a of a further product: no lane needs another's.
//
// Devices before sm_80, and the SIMT machine of tests/simt, run the same on shuffles: correct, not fast.
#pragma once
#include "base/cuda_util.cuh"

#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
#define DFN_TENSOR_CORES 1
#else
#define DFN_TENSOR_CORES 0
#endif

namespace dfn::cuda {

__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }

// To nearest, ties to even; NaN stays one.
__device__ inline uint32_t round_bf16(float v) {
    const uint32_t bits = __float_as_uint(v);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FFFu;
    return (bits + 0x7FFFu + (bits >> 16 & 1)) >> 16;
}

__device__ inline uint32_t pack_bf16(float x, float y) {
#if DFN_TENSOR_CORES
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
    return pair;
#else
    return round_bf16(x) | round_bf16(y) << 16;
#endif
}

// x and y as high + low, the low part what rounding left.
struct Split {
    uint32_t high, low;
};
__device__ inline Split split_bf16(float x, float y) {
    const uint32_t high = pack_bf16(x, y);
    return {high, pack_bf16(x - low_bf16(high), y - high_bf16(high))};
}

#if !DFN_TENSOR_CORES
// Four products of pairs in words, summed.
__device__ inline float pair_products(uint64_t a, uint64_t b) {
    const uint32_t a0 = uint32_t(a), a1 = uint32_t(a >> 32), b0 = uint32_t(b), b1 = uint32_t(b >> 32);
    return low_bf16(a0) * low_bf16(b0) + high_bf16(a0) * high_bf16(b0) + low_bf16(a1) * low_bf16(b1) +
           high_bf16(a1) * high_bf16(b1);
}
#endif

// d += a b, for the whole warp.
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if DFN_TENSOR_CORES
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    const unsigned lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    const uint64_t upper = a[0] | uint64_t(a[2]) << 32, lower = a[1] | uint64_t(a[3]) << 32;
    const uint64_t column = b0 | uint64_t(b1) << 32;
    for (unsigned part = 0; part < 4; ++part) {  // the lanes that share a row or a column
        const uint64_t row0 = __shfl_sync(kAllLanes, upper, 4 * g + part);
        const uint64_t row1 = __shfl_sync(kAllLanes, lower, 4 * g + part);
        const uint64_t column0 = __shfl_sync(kAllLanes, column, 8 * t + part);
        const uint64_t column1 = __shfl_sync(kAllLanes, column, 8 * t + 4 + part);
        d[0] += pair_products(row0, column0);
        d[1] += pair_products(row0, column1);
        d[2] += pair_products(row1, column0);
        d[3] += pair_products(row1, column1);
    }
#endif
}

// Both factors split: without low times low, which is below what the split itself leaves out. b: {high b0, high b1, low
// b0, low b1}.
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&high)[4], const uint32_t (&low)[4], uint4 b) {
    multiply_add(d, low, b.x, b.y);
    multiply_add(d, high, b.z, b.w);
    multiply_add(d, high, b.x, b.y);
}

// a exact, b split.
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint4 b) {
    multiply_add(d, a, b.z, b.w);
    multiply_add(d, a, b.x, b.y);
}

// An 8 x 8 matrix of bfloat16, lane 4 g + t with row g, columns 2t, 2t + 1, to the same of its transpose.
__device__ inline uint32_t transpose8(uint32_t pair) {
#if DFN_TENSOR_CORES
    uint32_t transposed;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
    return transposed;
#else
    const unsigned lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    const uint32_t first = __shfl_sync(kAllLanes, pair, 8 * t + g / 2);
    const uint32_t second = __shfl_sync(kAllLanes, pair, 8 * t + 4 + g / 2);
    return g % 2 ? first >> 16 | (second & 0xFFFF0000u) : (first & 0xFFFFu) | second << 16;
#endif
}

}  // namespace dfn::cuda
