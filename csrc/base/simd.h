// Vectors of floats in the instruction set that this translation unit is compiled for. Everything is in a namespace of
// its own for each set, and forced inline: a function compiled for one processor never serves instead of
// another's. GCC's vector extension does the arithmetic, intrinsics only what it cannot say; without x86 (arm64),
// loops stand in for them.
#pragma once
#include <cstring>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "base/hd.h"

#if !defined(DFN_SIMD_LEVEL)
#define DFN_SIMD_LEVEL plain
#endif

namespace dfn::DFN_SIMD_LEVEL {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
typedef uint32_t Words __attribute__((vector_size(4 * kWidth)));
typedef float Pair __attribute__((vector_size(8), aligned(4), may_alias));
typedef float UnalignedFloats __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

DFN_HD Floats load(const float* p) { return *reinterpret_cast<const UnalignedFloats*>(p); }
DFN_HD void store(float* p, Floats v) { *reinterpret_cast<UnalignedFloats*>(p) = v; }
DFN_HD Floats splat(float v) { return v - Floats{}; }
DFN_HD Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }
DFN_HD Ints truncate(Floats v) { return __builtin_convertvector(v, Ints); }

DFN_HD Floats square_root(Floats v) {
#if defined(__AVX512F__)
    return (Floats)_mm512_sqrt_ps((__m512)v);
#elif defined(__AVX2__)
    return (Floats)_mm256_sqrt_ps((__m256)v);
#elif defined(__SSE2__)
    return (Floats)_mm_sqrt_ps((__m128)v);
#else
    for (int i = 0; i < kWidth; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

constexpr unsigned kAllLanes = (1u << kWidth) - 1;

// Whether every lane is -1, of lanes that are 0 or -1.
DFN_HD bool all(Ints mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) == 0xFFFF;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)mask) == 0xFF;
#elif defined(__SSE2__)
    return _mm_movemask_ps((__m128)mask) == 0xF;
#else
    int32_t both = -1;
    for (int i = 0; i < kWidth; ++i) both &= mask[i];
    return both != 0;
#endif
}

// One truth a lane: a bit of a register with AVX-512, else 0 or -1. Masks take & | ^ ~.
#if defined(__AVX512F__)
typedef __mmask16 Mask;
DFN_HD Mask greater(Floats a, Floats b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ); }
DFN_HD Mask not_less(Floats a, Floats b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ); }
DFN_HD Mask equal(Floats a, Floats b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
DFN_HD Mask equal(Ints a, Ints b) { return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b); }
DFN_HD Mask below(Words a, Words b) { return _mm512_cmplt_epu32_mask((__m512i)a, (__m512i)b); }
DFN_HD Floats select(Mask m, Floats a, Floats b) { return (Floats)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
DFN_HD Ints select(Mask m, Ints a, Ints b) { return (Ints)_mm512_mask_blend_epi32(m, (__m512i)b, (__m512i)a); }
DFN_HD unsigned bits(Mask m) { return m; }
DFN_HD Mask first_lanes(int n) { return Mask((1u << n) - 1); }
#else
typedef Ints Mask;
DFN_HD Mask greater(Floats a, Floats b) { return a > b; }
DFN_HD Mask not_less(Floats a, Floats b) { return a >= b; }
DFN_HD Mask equal(Floats a, Floats b) { return a == b; }
DFN_HD Mask equal(Ints a, Ints b) { return a == b; }
DFN_HD Mask below(Words a, Words b) { return a < b; }
DFN_HD Floats select(Mask m, Floats a, Floats b) { return (Floats)((m & (Ints)a) | (~m & (Ints)b)); }
DFN_HD Ints select(Mask m, Ints a, Ints b) { return (m & a) | (~m & b); }
DFN_HD unsigned bits(Mask m) {
#if defined(__AVX2__)
    return unsigned(_mm256_movemask_ps((__m256)m));
#elif defined(__SSE2__)
    return unsigned(_mm_movemask_ps((__m128)m));
#else
    unsigned found = 0;
    for (int i = 0; i < kWidth; ++i) found |= unsigned(m[i] & 1) << i;
    return found;
#endif
}
DFN_HD Mask first_lanes(int n) {
    Mask m;
    for (int i = 0; i < kWidth; ++i) m[i] = i < n ? -1 : 0;
    return m;
}
#endif

DFN_HD float sum(Floats v) {
    typedef float Four __attribute__((vector_size(16)));
    Four parts[kWidth / 4];
    std::memcpy(parts, &v, sizeof v);
    for (int i = 1; i < kWidth / 4; ++i) parts[0] += parts[i];
    return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

// a[i], b[i] = p[2 index[i]], p[2 index[i] + 1]: loads of 64 bits.
DFN_HD void gather_pairs(const float* p, Words index, Floats& a, Floats& b) {
#if defined(__AVX512F__)
    const __m512i at = (__m512i)index;
    const __m512d low = _mm512_i32gather_pd(_mm512_castsi512_si256(at), p, 8);
    const __m512d high = _mm512_i32gather_pd(_mm512_extracti64x4_epi64(at, 1), p, 8);
    const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    a = (Floats)_mm512_permutex2var_ps(_mm512_castpd_ps(low), even, _mm512_castpd_ps(high));
    b = (Floats)_mm512_permutex2var_ps(_mm512_castpd_ps(low), odd, _mm512_castpd_ps(high));
#elif defined(__SSE2__)
    // Loads and shuffles: gathers are slower than these on every processor with AVX2 but without AVX-512.
    __m128 even[kWidth / 4], odd[kWidth / 4];
    for (int i = 0; i < kWidth; i += 4) {
        const auto pair = [&](int k) { return p + 2 * int64_t(index[i + k]); };
        const auto two = [&](int k) {
            const __m128 low = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(pair(k))));
            return _mm_loadh_pi(low, reinterpret_cast<const __m64*>(pair(k + 1)));
        };
        const __m128 first = two(0), second = two(2);
        even[i / 4] = _mm_shuffle_ps(first, second, 0x88);
        odd[i / 4] = _mm_shuffle_ps(first, second, 0xDD);
    }
    std::memcpy(&a, even, sizeof a);
    std::memcpy(&b, odd, sizeof b);
#else
    for (int i = 0; i < kWidth; ++i) {
        a[i] = p[2 * int64_t(index[i])];
        b[i] = p[2 * int64_t(index[i]) + 1];
    }
#endif
}

// a[i] = p[index[i]]
DFN_HD Floats gather_one(const float* p, Words index) {
#if defined(__AVX512F__)
    return (Floats)_mm512_i32gather_ps((__m512i)index, p, 4);
#else
    Floats a;
    for (int i = 0; i < kWidth; ++i) a[i] = p[index[i]];
    return a;
#endif
}

DFN_HD Ints gather_one(const int32_t* p, Ints index) {
#if defined(__AVX512F__)
    return (Ints)_mm512_i32gather_epi32((__m512i)index, p, 4);
#else
    Ints a;
    for (int i = 0; i < kWidth; ++i) a[i] = p[index[i]];
    return a;
#endif
}

// The lanes of a mask, one after the other from `p` on, where a whole vector must fit; returns their number.
DFN_HD int store_some(int32_t* p, Mask m, Ints v) {
#if defined(__AVX512F__)
    _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(m, (__m512i)v));
    return __builtin_popcount(m);
#else
    int count = 0;
    for (unsigned rest = bits(m); rest; rest &= rest - 1) p[count++] = v[__builtin_ctz(rest)];
    return count;
#endif
}

// p[2 i], p[2 i + 1] = a[i], b[i]
DFN_HD void store_pairs(float* p, Floats a, Floats b) {
#if defined(__AVX512F__)
    const __m512i low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    store(p, (Floats)_mm512_permutex2var_ps((__m512)a, low, (__m512)b));
    store(p + kWidth, (Floats)_mm512_permutex2var_ps((__m512)a, high, (__m512)b));
#elif defined(__AVX2__)
    const __m256 low = _mm256_unpacklo_ps((__m256)a, (__m256)b), high = _mm256_unpackhi_ps((__m256)a, (__m256)b);
    store(p, (Floats)_mm256_permute2f128_ps(low, high, 0x20));
    store(p + kWidth, (Floats)_mm256_permute2f128_ps(low, high, 0x31));
#elif defined(__SSE2__)
    store(p, (Floats)_mm_unpacklo_ps((__m128)a, (__m128)b));
    store(p + kWidth, (Floats)_mm_unpackhi_ps((__m128)a, (__m128)b));
#else
    for (int i = 0; i < kWidth; ++i) {
        p[2 * i] = a[i];
        p[2 * i + 1] = b[i];
    }
#endif
}

DFN_HD void transpose4(const float* in, int64_t in_row, float* out, int64_t out_row) {
#if defined(__SSE2__)
    __m128 a = _mm_loadu_ps(in), b = _mm_loadu_ps(in + in_row);
    __m128 c = _mm_loadu_ps(in + 2 * in_row), d = _mm_loadu_ps(in + 3 * in_row);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(out, a);
    _mm_storeu_ps(out + out_row, b);
    _mm_storeu_ps(out + 2 * out_row, c);
    _mm_storeu_ps(out + 3 * out_row, d);
#else
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 4; ++k) out[i * out_row + k] = in[k * in_row + i];
#endif
}

// out[c][r] = in[r][c]
DFN_HD void transpose(const float* in, int64_t in_row, int rows, int columns, float* out, int64_t out_row) {
    const int whole_rows = rows / 4 * 4, whole_columns = columns / 4 * 4;
    for (int c = 0; c < whole_columns; c += 4)
        for (int r = 0; r < whole_rows; r += 4) transpose4(in + r * in_row + c, in_row, out + c * out_row + r, out_row);
    for (int r = 0; r < rows; ++r)
        for (int c = r < whole_rows ? whole_columns : 0; c < columns; ++c) out[c * out_row + r] = in[r * in_row + c];
}

}  // namespace dfn::DFN_SIMD_LEVEL
