// What every body shares: the host/device macro, small vectors, the Add policy and the random numbers.
// Knows nothing of threads, streams, torch or Python.
#pragma once
#include <cmath>
#include <cstdint>

// Forced inlining matters on the CPU: a body is vectorised only as part of the cloned block function that calls it.
#if defined(__CUDACC__)
#define DFN_HD __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define DFN_HD inline __attribute__((always_inline))
#else
#define DFN_HD inline
#endif

// After the parameters of a lambda that must become part of its caller.
#if defined(__GNUC__) && !defined(__CUDACC__)
#define DFN_INLINE __attribute__((always_inline))
#else
#define DFN_INLINE
#endif

namespace dfn {

template <class T>
struct Vec3 {
    T x, y, z;
};

template <class T>
DFN_HD Vec3<T> operator+(Vec3<T> a, Vec3<T> b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
}
template <class T>
DFN_HD Vec3<T> operator-(Vec3<T> a, Vec3<T> b) {
    return {a.x - b.x, a.y - b.y, a.z - b.z};
}
template <class T>
DFN_HD Vec3<T> operator-(Vec3<T> a) {
    return {-a.x, -a.y, -a.z};
}
template <class T>
DFN_HD Vec3<T> operator*(Vec3<T> a, Vec3<T> b) {
    return {a.x * b.x, a.y * b.y, a.z * b.z};
}
template <class T>
DFN_HD Vec3<T> operator*(T s, Vec3<T> a) {
    return {s * a.x, s * a.y, s * a.z};
}
template <class T>
DFN_HD T dot(Vec3<T> a, Vec3<T> b) {
    return a.x * b.x + a.y * b.y + a.z * b.z;
}
template <class T>
DFN_HD Vec3<T> load3(const T* p, int64_t row) {
    return {p[3 * row], p[3 * row + 1], p[3 * row + 2]};
}
template <class T>
DFN_HD void store3(T* p, int64_t row, Vec3<T> v) {
    p[3 * row] = v.x;
    p[3 * row + 1] = v.y;
    p[3 * row + 2] = v.z;
}

// Comparisons written so that a NaN becomes the lower bound and never an index.
template <class T>
DFN_HD T clamp(T v, T lo, T hi) {
    return v > lo ? (v < hi ? v : hi) : lo;
}
template <class T>
DFN_HD T max0(T v) {
    return v > T(0) ? v : T(0);
}

// A product that is rounded before anything is added to it. Contraction to a fused multiply-add is up to each compiler,
// and would put a sample at a cell's face, or a pixel on an edge, on different sides on different devices.
template <class T>
DFN_HD T rounded_product(T a, T b) {
#ifdef __CUDA_ARCH__
    if constexpr (sizeof(T) == 4)
        return __fmul_rn(a, b);
    else
        return __dmul_rn(a, b);
#else
    return a * b;
#endif
}

// How a body adds to memory that several samples share: plain where one thread owns the target, atomic where not.
struct PlainAdd {
    template <class T>
    static DFN_HD void add(T* target, T value) {
        *target += value;
    }
};
struct AtomicAdd {  // device only; the host branch exists so that host/device templates instantiate
    template <class T>
    static DFN_HD void add(T* target, T value) {
#ifdef __CUDA_ARCH__
        atomicAdd(target, value);
#else
        *target += value;
#endif
    }
};

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): by counter, the same everywhere.
struct Random4 {
    uint32_t v[4];
};

DFN_HD Random4 philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
    const uint64_t low = counter_low, high = counter_high;
    Random4 c{{uint32_t(low), uint32_t(low >> 32), uint32_t(high), uint32_t(high >> 32)}};
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * c.v[0], p1 = uint64_t(0xCD9E8D57u) * c.v[2];
        c = {{uint32_t(p1 >> 32) ^ c.v[1] ^ k0, uint32_t(p1), uint32_t(p0 >> 32) ^ c.v[3] ^ k1, uint32_t(p0)}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// 32 random bits to [0, 1): 24 bits, so that float and double agree and 1 is never reached.
template <class T>
DFN_HD T to_unit(uint32_t bits) {
    return T(bits >> 8) * T(1.0 / 16777216.0);
}

// The index-th number of a stream: key = seed, counter = (index, stream).
template <class T>
DFN_HD T uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    return to_unit<T>(philox(seed, index, stream).v[0]);
}

template <class T>
DFN_HD Vec3<T> uniform3(uint64_t seed, uint64_t stream, uint64_t index) {
    const Random4 r = philox(seed, index, stream);
    return {to_unit<T>(r.v[0]), to_unit<T>(r.v[1]), to_unit<T>(r.v[2])};
}

// Rows that a launcher works on: all n, or fewer where a device-side count says so (never read on the host for CUDA).
DFN_HD int64_t live_rows(int64_t n, const int64_t* count) {
    if (!count) return n;
    return *count < 0 ? 0 : (*count < n ? *count : n);
}

}  // namespace dfn
