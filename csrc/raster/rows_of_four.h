// Rows of three or four floats, as positions, colours and barycentrics are, to and from vectors of each of them.
#pragma once
#include "base/simd.h"

namespace dfn::DFN_SIMD_LEVEL {

typedef float Four __attribute__((vector_size(16)));
typedef float UnalignedFour __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t UnalignedInts __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));

DFN_HD Four load4(const float* p) { return *reinterpret_cast<const UnalignedFour*>(p); }
DFN_HD void store4(float* p, Four v) { *reinterpret_cast<UnalignedFour*>(p) = v; }
DFN_HD Four splat4(float v) { return Four{v, v, v, v}; }
DFN_HD Ints load_ints(const int32_t* p) { return *reinterpret_cast<const UnalignedInts*>(p); }
DFN_HD void store_ints(int32_t* p, Ints v) { *reinterpret_cast<UnalignedInts*>(p) = v; }
DFN_HD Ints splat_int(int32_t v) { return v - Ints{}; }

// `count` floats of a row, 1 to 4, and zeros; what lies behind them is not touched.
DFN_HD Four load_part(const float* p, int count) {
    if (count == 4) return load4(p);
#if defined(__SSE2__)
    if (count == 1) return (Four)_mm_load_ss(p);
    const __m128 two = _mm_castsi128_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return (Four)(count == 2 ? two : _mm_movelh_ps(two, _mm_load_ss(p + 2)));
#else
    Four v{};
    for (int i = 0; i < count; ++i) v[i] = p[i];
    return v;
#endif
}

DFN_HD void store_part(float* p, Four v, int count) {
    if (count == 4) {
        store4(p, v);
        return;
    }
#if defined(__SSE2__)
    if (count > 1) _mm_storel_pi(reinterpret_cast<__m64*>(p), (__m128)v);
    if (count == 1) _mm_store_ss(p, (__m128)v);
    if (count == 3) _mm_store_ss(p + 2, _mm_movehl_ps((__m128)v, (__m128)v));
#else
    for (int i = 0; i < count; ++i) p[i] = v[i];
#endif
}

// Four rows a 128 bits of the vectors become four columns, or the other way round.
DFN_HD void transpose_lanes(Floats (&v)[4]) {
#if defined(__AVX512F__)
    const __m512 a = (__m512)v[0], b = (__m512)v[1], c = (__m512)v[2], d = (__m512)v[3];
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    const __m512d ab2 = _mm512_castps_pd(_mm512_unpackhi_ps(a, b)), cd2 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    v[0] = (Floats)_mm512_unpacklo_pd(ab, cd), v[1] = (Floats)_mm512_unpackhi_pd(ab, cd);
    v[2] = (Floats)_mm512_unpacklo_pd(ab2, cd2), v[3] = (Floats)_mm512_unpackhi_pd(ab2, cd2);
#elif defined(__AVX2__)
    const __m256 a = (__m256)v[0], b = (__m256)v[1], c = (__m256)v[2], d = (__m256)v[3];
    const __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)), cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
    const __m256d ab2 = _mm256_castps_pd(_mm256_unpackhi_ps(a, b)), cd2 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    v[0] = (Floats)_mm256_unpacklo_pd(ab, cd), v[1] = (Floats)_mm256_unpackhi_pd(ab, cd);
    v[2] = (Floats)_mm256_unpacklo_pd(ab2, cd2), v[3] = (Floats)_mm256_unpackhi_pd(ab2, cd2);
#elif defined(__SSE2__)
    __m128 a = (__m128)v[0], b = (__m128)v[1], c = (__m128)v[2], d = (__m128)v[3];
    _MM_TRANSPOSE4_PS(a, b, c, d);
    v[0] = (Floats)a, v[1] = (Floats)b, v[2] = (Floats)c, v[3] = (Floats)d;
#else
    for (int i = 0; i < 4; ++i)
        for (int k = 0; k < i; ++k) {
            const float other = v[i][k];
            v[i][k] = v[k][i], v[k][i] = other;
        }
#endif
}

// fn(0), fn(1), ... side by side.
template <class Fn>
DFN_HD Floats side_by_side(Fn fn) {
#if defined(__AVX512F__)
    __m512 v = _mm512_castps128_ps512((__m128)fn(0));
    v = _mm512_insertf32x4(v, (__m128)fn(1), 1);
    v = _mm512_insertf32x4(v, (__m128)fn(2), 2);
    return (Floats)_mm512_insertf32x4(v, (__m128)fn(3), 3);
#elif defined(__AVX2__)
    return (Floats)_mm256_insertf128_ps(_mm256_castps128_ps256((__m128)fn(0)), (__m128)fn(1), 1);
#else
    return (Floats)fn(0);
#endif
}

// out[k][i] = p[stride row[i] + k]
DFN_HD void gather_fours(const float* p, const int32_t* row, Floats (&out)[4], int64_t stride = 4) {
    for (int i = 0; i < 4; ++i)
        out[i] = side_by_side([&](int lane) DFN_INLINE { return load4(p + stride * row[4 * lane + i]); });
    transpose_lanes(out);
}

// As gather_fours, of rows of `count` floats, 1 to 4, behind which nothing is read; the other columns are zero.
DFN_HD void gather_parts(const float* p, const int32_t* row, int count, int64_t stride, Floats (&out)[4]) {
    for (int i = 0; i < 4; ++i)
        out[i] = side_by_side([&](int lane) DFN_INLINE { return load_part(p + stride * row[4 * lane + i], count); });
    transpose_lanes(out);
}

// p[4 i + k] = in[k][i]
DFN_HD void store_fours(float* p, const Floats (&in)[4]) {
    Floats v[4] = {in[0], in[1], in[2], in[3]};
    transpose_lanes(v);
    for (int i = 0; i < 4; ++i) {
        Four parts[kWidth / 4];
        std::memcpy(parts, &v[i], sizeof parts);
        for (int lane = 0; lane < kWidth / 4; ++lane) store4(p + 4 * (4 * lane + i), parts[lane]);
    }
}

// p[3 i + k] = in[k][i], for kWidth rows.
DFN_HD void store_threes(float* p, Floats x, Floats y, Floats z) {
#if defined(__AVX512F__)
    // Lane i of the part `part` is number 16 part + i of the rows: component (16 part + i) % 3 of row (16 part + i)
    // / 3.
    const __m512i xy0 = _mm512_set_epi32(5, 0, 20, 4, 0, 19, 3, 0, 18, 2, 0, 17, 1, 0, 16, 0);
    const __m512i z0 = _mm512_set_epi32(15, 20, 13, 12, 19, 10, 9, 18, 7, 6, 17, 4, 3, 16, 1, 0);
    const __m512i xy1 = _mm512_set_epi32(26, 10, 0, 25, 9, 0, 24, 8, 0, 23, 7, 0, 22, 6, 0, 21);
    const __m512i z1 = _mm512_set_epi32(15, 14, 25, 12, 11, 24, 9, 8, 23, 6, 5, 22, 3, 2, 21, 0);
    const __m512i xy2 = _mm512_set_epi32(0, 31, 15, 0, 30, 14, 0, 29, 13, 0, 28, 12, 0, 27, 11, 0);
    const __m512i z2 = _mm512_set_epi32(31, 14, 13, 30, 11, 10, 29, 8, 7, 28, 5, 4, 27, 2, 1, 26);
    const __m512 a = (__m512)x, b = (__m512)y, c = (__m512)z;
    _mm512_storeu_ps(p, _mm512_permutex2var_ps(_mm512_permutex2var_ps(a, xy0, b), z0, c));
    _mm512_storeu_ps(p + 16, _mm512_permutex2var_ps(_mm512_permutex2var_ps(a, xy1, b), z1, c));
    _mm512_storeu_ps(p + 32, _mm512_permutex2var_ps(_mm512_permutex2var_ps(a, xy2, b), z2, c));
#else
    Floats v[4] = {x, y, z, z};
    transpose_lanes(v);
    for (int lane = 0; lane < kWidth / 4; ++lane)
        for (int i = 0; i < 4; ++i) {
            Four parts[kWidth / 4];
            std::memcpy(parts, &v[i], sizeof parts);
            store_part(p + 3 * (4 * lane + i), parts[lane], 3);
        }
#endif
}

// out[k][i] = p[3 i + k], for kWidth rows.
DFN_HD void load_threes(const float* p, Floats (&out)[3]) {
#if defined(__AVX512F__)
    const __m512 a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16), c = _mm512_loadu_ps(p + 32);
    // 3 i + k of 32 numbers of a and b; then 16 + of the rest of c
    const __m512i ab0 = _mm512_set_epi32(0, 0, 0, 0, 0, 30, 27, 24, 21, 18, 15, 12, 9, 6, 3, 0);
    const __m512i c0 = _mm512_set_epi32(29, 26, 23, 20, 17, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i ab1 = _mm512_set_epi32(0, 0, 0, 0, 0, 31, 28, 25, 22, 19, 16, 13, 10, 7, 4, 1);
    const __m512i c1 = _mm512_set_epi32(30, 27, 24, 21, 18, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i ab2 = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2);
    const __m512i c2 = _mm512_set_epi32(31, 28, 25, 22, 19, 16, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    out[0] = (Floats)_mm512_permutex2var_ps(_mm512_permutex2var_ps(a, ab0, b), c0, c);
    out[1] = (Floats)_mm512_permutex2var_ps(_mm512_permutex2var_ps(a, ab1, b), c1, c);
    out[2] = (Floats)_mm512_permutex2var_ps(_mm512_permutex2var_ps(a, ab2, b), c2, c);
#else
    Floats v[4];
    for (int i = 0; i < 4; ++i)
        v[i] = side_by_side([&](int lane) DFN_INLINE { return load_part(p + 3 * (4 * lane + i), 3); });
    transpose_lanes(v);
    for (int k = 0; k < 3; ++k) out[k] = v[k];
#endif
}

// The vertices of triangles. False: a triangle is not there; it has vertex 0 then. One triangle must be there.
DFN_HD Mask vertices_of(
    const int32_t* faces, int64_t triangles, int64_t vertices, Ints triangle, int32_t (*vertex)[kWidth]) {
    constexpr int64_t kMost = 0x7FFFFFFF / 3;  // whose places in `faces` are numbers of 32 bits
    const auto words = [](int64_t v) { return (Words)splat_int(int32_t(v)); };
    Mask there = below((Words)triangle, words(triangles));
    const Ints known = select(there, triangle, Ints{});
    Ints v[3] = {};
    for (int k = 0; k < 3; ++k) {
        if (triangles <= kMost)
            v[k] = gather_one(faces + k, 3 * known);
        else
            for (int i = 0; i < kWidth; ++i) v[k][i] = faces[3 * int64_t(known[i]) + k];
        there &= below((Words)v[k], words(vertices));
    }
    for (int k = 0; k < 3; ++k) store_ints(vertex[k], select(there, v[k], Ints{}));
    return there;
}

}  // namespace dfn::DFN_SIMD_LEVEL
