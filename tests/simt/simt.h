// A small SIMT machine for tests: runs CUDA kernels that were compiled as C++, one block at a time, every thread of the
// block a fiber, in an order that the test chooses. A barrier that not all threads reach, a warp function whose lanes
// do not agree, and a block in which nothing can go on end the program with one line that says where.
//
// Not emulated: time, caches, several blocks at once, and threads that read what another wrote without a barrier (a
// build with -fsanitize=thread reports those, since only barriers order memory there).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern uint3 threadIdx, blockIdx;  // of the fiber that runs
extern dim3 blockDim, gridDim;

namespace simt {

enum class Order { forward, reverse, shuffled };  // of the threads of a block, and of the blocks

struct Settings {
    Order order = Order::forward;
    uint64_t seed = 0;            // of Order::shuffled
    unsigned char poison = 0xFF;  // every byte of shared memory when a block starts
    size_t max_shared = 227 * 1024;
    int devices = 2;
};
extern Settings settings;
extern int device;  // the current one

struct Launch {
    dim3 grid, block;
    size_t shared;
    void* stream;
    int device;
};
extern std::vector<Launch> launches;  // every launch so far

enum class Status { ok, invalid_configuration };
Status run(const Launch& launch, size_t allowed_shared, const std::function<void()>& thread);

extern int64_t atomics;  // scalar atomic operations so far

struct Site {
    const char* what;
    const char* file;
    int line;
};
void block_barrier(Site site);
// Waits for the lanes of `mask`, all at the same function with the same mask; -> the value that each lane brought.
const uint64_t* exchange(Site site, unsigned mask, uint64_t value);
int lane();
void* dynamic_shared();
[[noreturn]] void fail(const char* format, ...);  // names the block and the thread, and exits with kFailure
constexpr int kFailure = 70;

}  // namespace simt
