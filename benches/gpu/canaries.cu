// One mistake per tool of compute-sanitizer: canaries memcheck|racecheck|initcheck|synccheck. Each must be reported.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>

__global__ void behind_the_buffer(int* out) { out[threadIdx.x + 1] = 1; }

__global__ void shared_race(int* out) {
    __shared__ int sum;
    if (threadIdx.x == 0) sum = 0;
    __syncthreads();
    sum += int(threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = sum;
}

__global__ void uninitialised(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x]; }

__global__ void divergent_barrier(int* out) {
    if (threadIdx.x < 20) __syncthreads();
    out[threadIdx.x] = 1;
}

int main(int argc, char** argv) {
    const char* const tool = argc > 1 ? argv[1] : "";
    constexpr int kThreads = 64;
    int *in = nullptr, *out = nullptr;
    if (cudaMalloc(&in, kThreads * sizeof(int)) || cudaMalloc(&out, kThreads * sizeof(int))) return 3;
    if (!std::strcmp(tool, "memcheck")) behind_the_buffer<<<1, kThreads>>>(out);
    else if (!std::strcmp(tool, "racecheck")) shared_race<<<1, kThreads>>>(out);
    else if (!std::strcmp(tool, "initcheck")) uninitialised<<<1, kThreads>>>(in, out);
    else if (!std::strcmp(tool, "synccheck")) divergent_barrier<<<1, kThreads>>>(out);
    else return 2;
    cudaDeviceSynchronize();
    std::printf("%s: ran\n", tool);
    return 0;
}
