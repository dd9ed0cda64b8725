// CUDA's language and runtime as far as csrc/*.cu uses them, on top of simt.h: found instead of the toolkit's header.
// What is not here does not compile: no function waits for the device or allocates on it.
#pragma once
#ifndef __CUDA_ARCH__
#error "compile kernels with -D__CUDA_ARCH__=900 or so: it selects the device branches"
#endif
#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <utility>

#include "simt.h"

#define __CUDACC_VER_MAJOR__ 12
#define __CUDACC_VER_MINOR__ 8
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ static __attribute__((section("simt_shared")))

#define SIMT_WHERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

constexpr int warpSize = 32;

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// Barriers and warp functions.
inline void __syncthreads(SIMT_WHERE) { simt::block_barrier({"__syncthreads", file, line}); }
inline void __syncwarp(unsigned mask = ~0u, SIMT_WHERE) { simt::exchange({"__syncwarp", file, line}, mask, 0); }

namespace simt {

template <class T>
uint64_t to_bits(T value) {
    static_assert(sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}

template <class T>
T lane_value(Site site, unsigned mask, T value, int from) {
    const uint64_t* all = exchange(site, mask, to_bits(value));
    if (!(mask >> from & 1))
        fail("%s (%s:%d): reads lane %d, which mask %08x leaves out", site.what, site.file, site.line, from, mask);
    T result;
    std::memcpy(&result, all + from, sizeof(T));
    return result;
}

}  // namespace simt

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = warpSize, SIMT_WHERE) {
    const int lane = simt::lane(), base = lane / width * width;
    return simt::lane_value({"__shfl_sync", file, line}, mask, value, base + (from & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = warpSize, SIMT_WHERE) {
    const int lane = simt::lane(), from = lane ^ with, end = lane / width * width + width;
    return simt::lane_value({"__shfl_xor_sync", file, line}, mask, value, from < end ? from : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = warpSize, SIMT_WHERE) {
    const int lane = simt::lane(), from = lane - int(by), begin = lane / width * width;
    return simt::lane_value({"__shfl_up_sync", file, line}, mask, value, from >= begin ? from : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = warpSize, SIMT_WHERE) {
    const int lane = simt::lane(), from = lane + int(by), end = lane / width * width + width;
    return simt::lane_value({"__shfl_down_sync", file, line}, mask, value, from < end ? from : lane);
}
inline unsigned simt_votes(simt::Site site, unsigned mask, int predicate) {
    const uint64_t* all = simt::exchange(site, mask, predicate != 0);
    unsigned votes = 0;
    for (int i = 0; i < warpSize; ++i) votes |= unsigned(mask >> i & 1 && all[i]) << i;
    return votes;
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_WHERE) {
    return simt_votes({"__ballot_sync", file, line}, mask, predicate);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_WHERE) {
    return simt_votes({"__any_sync", file, line}, mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_WHERE) {
    return simt_votes({"__all_sync", file, line}, mask, predicate) == mask;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, SIMT_WHERE) {
    const uint64_t* all = simt::exchange({"__match_any_sync", file, line}, mask, simt::to_bits(value));
    unsigned same = 0;
    for (int i = 0; i < warpSize; ++i) same |= unsigned(mask >> i & 1 && all[i] == simt::to_bits(value)) << i;
    return same;
}

// Atomics: relaxed, as CUDA's are. All return the old value.
template <class T, class Fn>
T simt_update(T* target, Fn next) {
    __atomic_fetch_add(&simt::atomics, 1, __ATOMIC_RELAXED);
    T old;
    __atomic_load(target, &old, __ATOMIC_RELAXED);
    for (;;) {
        T wanted = next(old);
        if (__atomic_compare_exchange(target, &old, &wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old;
    }
}
#define SIMT_ATOMIC(name, T, expression)                                                   \
    inline T name(T* target, T value) {                                                    \
        return simt_update(target, [value](T old) { return static_cast<T>(expression); }); \
    }
SIMT_ATOMIC(atomicAdd, int, unsigned(old) + unsigned(value))
SIMT_ATOMIC(atomicAdd, unsigned, old + value)
SIMT_ATOMIC(atomicAdd, unsigned long long, old + value)
SIMT_ATOMIC(atomicAdd, float, old + value)
SIMT_ATOMIC(atomicAdd, double, old + value)
SIMT_ATOMIC(atomicMin, unsigned long long, std::min(old, value))
SIMT_ATOMIC(atomicMax, int, std::max(old, value))
SIMT_ATOMIC(atomicMax, unsigned, std::max(old, value))
SIMT_ATOMIC(atomicOr, unsigned, old | value)
#undef SIMT_ATOMIC
#if __CUDA_ARCH__ >= 900
inline float2 atomicAdd(float2* target, float2 value) {
    if (reinterpret_cast<uintptr_t>(target) % 8) simt::fail("atomicAdd(float2*): the address is not a multiple of 8");
    return {atomicAdd(&target->x, value.x), atomicAdd(&target->y, value.y)};
}
#endif

// Arithmetic.
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline int __float_as_int(float v) { return int(simt::to_bits(v)); }
inline unsigned __float_as_uint(float v) { return unsigned(simt::to_bits(v)); }
inline float __uint_as_float(unsigned bits) {
    float v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
template <class T>
T __ldg(const T* p) {
    return *p;
}

// Runtime.
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorInvalidConfiguration = 9,
    cudaErrorInvalidDevice = 101
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct CUstream_st;
using cudaStream_t = CUstream_st*;
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute* attrs;
    unsigned numAttrs;
};

namespace simt {
inline std::map<const void*, size_t>& allowed_shared() {  // per kernel; the most that a launch may ask for
    static std::map<const void*, size_t> bytes;
    return bytes;
}
inline cudaError_t last_error = cudaSuccess;
}  // namespace simt

inline cudaError_t cudaGetDevice(int* device) { return *device = simt::device, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= simt::settings.devices) return cudaErrorInvalidDevice;
    return simt::device = device, cudaSuccess;
}
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = simt::settings.devices, cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor = 75, cudaDevAttrMaxSharedMemoryPerBlockOptin = 97 };
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int device) {
    if (device < 0 || device >= simt::settings.devices) return cudaErrorInvalidDevice;
    *value = which == cudaDevAttrComputeCapabilityMajor ? __CUDA_ARCH__ / 100 : int(simt::settings.max_shared);
    return cudaSuccess;
}
inline cudaError_t cudaRuntimeGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaDriverGetVersion(int* version) { return *version = 13000, cudaSuccess; }
inline cudaError_t cudaGetLastError() { return std::exchange(simt::last_error, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess                     ? "no error"
           : error == cudaErrorInvalidDevice        ? "invalid device ordinal"
           : error == cudaErrorInvalidConfiguration ? "invalid configuration argument"
                                                    : "invalid argument";
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
    if (bytes < 0 || size_t(bytes) > simt::settings.max_shared) return cudaErrorInvalidValue;
    simt::allowed_shared()[reinterpret_cast<const void*>(kernel)] = size_t(bytes);
    return cudaSuccess;
}

template <class... Formal, class... Actual>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Formal...), Actual&&... arguments) {
    const std::tuple<Formal...> values(std::forward<Actual>(arguments)...);
    const auto allowed = simt::allowed_shared().find(reinterpret_cast<const void*>(kernel));
    const simt::Launch launch{
        config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream, simt::device};
    const simt::Status status = simt::run(launch, allowed == simt::allowed_shared().end() ? 48 * 1024 : allowed->second,
        [&] { std::apply(kernel, values); });
    simt::last_error = status == simt::Status::ok ? cudaSuccess : cudaErrorInvalidConfiguration;
    return simt::last_error;
}
