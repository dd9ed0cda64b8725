// Kernels and programs with one mistake each: canaries NAME. Each must be caught, by the SIMT machine or by the
// sanitizer that this is built with; a canary that returns says "not caught".
#include <cstdio>
#include <thread>

#include "base/cuda_util.cuh"

namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;
const dfn::Exec here{0, 0, 1};

__global__ void divergent_barrier(int* out) {
    if (threadIdx.x < 20) __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void two_barriers(int* out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void missing_barrier(int* out) {
    int* shared = dfn::cuda::dynamic_shared<int>();
    shared[threadIdx.x] = int(threadIdx.x);
    out[threadIdx.x] = shared[63 - threadIdx.x];
}

__global__ void uninitialised_shared(int* out) {
    __shared__ int sum[64];
    if (threadIdx.x < 63) sum[threadIdx.x] = 0;
    __syncthreads();
    out[threadIdx.x] = sum[63 - threadIdx.x];
}

__global__ void shuffle_from_outside(int* out) {
    if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xFFFFu, int(threadIdx.x), 20);
}

__global__ void mask_without_caller(int* out) { out[threadIdx.x] = __any_sync(kAll << 1, 1); }

__global__ void lanes_that_left(int* out) {
    if (threadIdx.x >= 40) return;
    out[threadIdx.x] = __shfl_xor_sync(kAll, int(threadIdx.x), 1);
}

__global__ void different_functions(int* out) {
    out[threadIdx.x] = threadIdx.x % 2 ? __any_sync(kAll, 1) : __all_sync(kAll, 1);
}

__global__ void behind_the_buffer(int* out) { out[threadIdx.x + 1] = 1; }

__global__ void behind_shared(int* out) {
    int* shared = dfn::cuda::dynamic_shared<int>();
    shared[threadIdx.x + 1] = 1;
    out[threadIdx.x] = shared[threadIdx.x + 1];
}

__global__ void behind_static_shared(int* out) {
    __shared__ int values[63];
    values[threadIdx.x] = 1;
    out[threadIdx.x] = values[threadIdx.x];
}

__global__ void misaligned(int* out) {
    float2* pair = reinterpret_cast<float2*>(out + threadIdx.x % 2);
    if (threadIdx.x < 2) pair->x = 1;
}

__global__ void overflow(int* out) { out[threadIdx.x] = 0x7FFFFFF0 + int(threadIdx.x); }

__global__ void shared_race(int* out) {
    int* shared = dfn::cuda::dynamic_shared<int>();
    if (threadIdx.x == 0) *shared = 0;
    __syncthreads();
    *shared += 1;
    __syncthreads();
    out[threadIdx.x] = *shared;
}

__global__ void global_race(int* out) { out[0] += 1; }

__global__ void race_of_blocks(int* out) {
    if (threadIdx.x == 0) out[0] += 1;
}

__global__ void too_many_threads(int* out) { *out = 1; }

void run(void (*kernel)(int*), unsigned blocks = 1, unsigned threads = 64, size_t shared = 64 * sizeof(int)) {
    const std::unique_ptr<int[]> out(new int[threads]());
    dfn::cuda::launch_shared("canary", here, kernel, blocks, threads, shared, out.get());
    for (unsigned i = 0; i < threads; ++i)
        if (out[i] < 0) std::printf("caught: out[%u] is poison\n", i), std::exit(simt::kFailure);
}

void host_race() {
    int value = 0;
    std::thread other([&] { value = 1; });
    value = 2;
    other.join();
    std::printf("%d\n", value);
}

}  // namespace

int main(int argc, char** argv) {
    const std::string name = argc > 1 ? argv[1] : "";
    try {
#define CANARY(kernel, ...) \
    if (name == #kernel) run(kernel, ##__VA_ARGS__)
        CANARY(divergent_barrier);
        CANARY(two_barriers);
        CANARY(missing_barrier);
        CANARY(uninitialised_shared);
        CANARY(shuffle_from_outside);
        CANARY(mask_without_caller);
        CANARY(lanes_that_left);
        CANARY(different_functions);
        CANARY(behind_the_buffer);
        CANARY(behind_shared);
        CANARY(behind_static_shared);
        CANARY(misaligned);
        CANARY(overflow);
        CANARY(shared_race);
        CANARY(global_race);
        CANARY(race_of_blocks, 4);
        CANARY(too_many_threads, 1, 1025);
        if (name == "too_much_shared") run(too_many_threads, 1, 64, 49 * 1024);
        if (name == "no_blocks") run(too_many_threads, 0);
        if (name == "host_race") host_race();
    } catch (const std::runtime_error& error) {
        std::printf("caught: %s\n", error.what());
        return simt::kFailure;
    }
    std::printf("not caught\n");
    return 0;
}
