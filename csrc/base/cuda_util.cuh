// What the CUDA launchers share: device guard, error check, grid size. Nothing here allocates or waits.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "base/launch.h"

namespace dfn::cuda {

inline void check(cudaError_t status, const char* op) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(status));
}

// Makes the tensors' device current for one launch; the caller's device comes back afterwards.
class DeviceGuard {
public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&previous_), "cudaGetDevice");
        if (device != previous_) check(cudaSetDevice(device), "cudaSetDevice");
        changed_ = device != previous_;
    }
    ~DeviceGuard() {
        if (changed_) cudaSetDevice(previous_);
    }
    DeviceGuard(const DeviceGuard&) = delete;

private:
    int previous_ = 0;
    bool changed_ = false;
};

inline cudaStream_t stream_of(const Exec& e) { return reinterpret_cast<cudaStream_t>(e.stream); }

constexpr unsigned kWarp = 32, kAllLanes = 0xFFFFFFFFu;
constexpr int kBlock = 256;  // threads per block of a one-thread-per-item kernel

// Blocks of a grid-stride kernel over n items; a grid of zero blocks is an error in CUDA, so at least one.
inline unsigned blocks_for(int64_t n, int block = kBlock) {
    return unsigned(std::max<int64_t>(1, std::min<int64_t>((n + block - 1) / block, 65535)));
}

#ifdef __CUDACC__
#define DFN_PRAGMA(text) _Pragma(#text)
#define DFN_UNROLL DFN_PRAGMA(unroll)
#define DFN_UNROLL_BY(n) DFN_PRAGMA(unroll n)
#else
#define DFN_UNROLL
#define DFN_UNROLL_BY(n)
#endif

#define DFN_GRID_STRIDE(i, n) \
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < (n); i += int64_t(gridDim.x) * blockDim.x)

template <class T>
__device__ T sum_over_warp(T value) {
    for (unsigned reach = kWarp / 2; reach; reach /= 2) value += __shfl_xor_sync(kAllLanes, value, int(reach));
    return value;
}

// kernel(arguments...) with the device guard and the error check around it. cudaLaunchKernelEx and no <<<>>>: C++
// compilers take it too (tests/simt).
template <class... Formal, class... Actual>
void launch_shared(const char* op, const Exec& e, void (*kernel)(Formal...), dim3 blocks, unsigned block,
    size_t shared_bytes, Actual... arguments) {
    const DeviceGuard guard(e.device);
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = dim3(block);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_of(e);
    const cudaError_t status = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (status != cudaSuccess) cudaGetLastError();  // reported here, and not once more by whoever asks next
    check(status, op);
}

template <class... Formal, class... Actual>
void launch(
    const char* op, const Exec& e, void (*kernel)(Formal...), dim3 blocks, unsigned block, Actual... arguments) {
    launch_shared(op, e, kernel, blocks, block, 0, arguments...);
}

// The dynamic shared memory of a block, for any T of at most 16 bytes.
template <class T>
__device__ T* dynamic_shared() {
#ifdef __CUDACC__
    extern __shared__ float4 dynamic_shared_memory[];
    return reinterpret_cast<T*>(dynamic_shared_memory);
#else
    return static_cast<T*>(simt::dynamic_shared());
#endif
}

}  // namespace dfn::cuda
