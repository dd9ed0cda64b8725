// March on CUDA: one thread per block of cells, ray or row around the bodies of march.h; the scan is one block.
// Everything is deterministic.
#include <climits>

#include "base/cuda_util.cuh"
#include "march/march.h"

namespace dfn::cuda {
namespace {

constexpr unsigned kScanThreads = 1024;
constexpr unsigned kRayBlock = 64;  // rays differ in length: small blocks finish early

template <class T>
__global__ void classify_kernel(March<T> p, int64_t blocks) {
    DFN_GRID_STRIDE(b, blocks) classify_block(p, b);
}

template <class T>
__global__ void spread_kernel(March<T> p, int64_t blocks, int axis) {
    DFN_GRID_STRIDE(b, blocks) spread_distance(p, b, axis);
}

// One kernel for both passes, so that they round alike.
template <class T>
__global__ void march_kernel(March<T> p, bool write) {
    DFN_GRID_STRIDE(r, p.rays) {
        const int64_t row = write ? p.offsets[r] : -1;
        const int kept = march_ray(p, r, row, write ? p.offsets[r + 1] - p.offsets[r] : INT_MAX);
        if (!write) p.counts[r] = kept;
    }
}

template <class T>
__global__ void clear_rows_kernel(March<T> p) {
    DFN_GRID_STRIDE(i, p.budget - p.info[0]) clear_row(p, p.info[0] + i);
}

// The sum of `value` over the threads before this one; `total` over all of them. Every thread of the block takes part.
__device__ int64_t block_scan(int64_t value, int64_t* shared, int64_t& total) {
    const unsigned lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int64_t sum = value, before = 0;
    for (unsigned reach = 1; reach < kWarp; reach *= 2) {
        const int64_t other = __shfl_up_sync(kAllLanes, sum, reach);
        if (lane >= reach) sum += other;
    }
    if (lane == kWarp - 1) shared[warp] = sum;
    __syncthreads();
    total = 0;
    for (unsigned w = 0; w < kScanThreads / kWarp; ++w) {
        before += w < warp ? shared[w] : 0;
        total += shared[w];
    }
    __syncthreads();  // `shared` may be written again
    return before + sum - value;
}

// Samples before the budget -> offsets and info, with the largest cap for which all rays together fit. One block.
template <class T>
__global__ void __launch_bounds__(kScanThreads) scan_kernel(March<T> p) {
    __shared__ int64_t shared[kScanThreads / kWarp];
    const int64_t each = (p.rays + kScanThreads - 1) / kScanThreads, first = threadIdx.x * each;
    const int64_t begin = first < p.rays ? first : p.rays, end = begin + each < p.rays ? begin + each : p.rays;
    const auto sum_under = [&](int64_t cap, int64_t& all) {
        int64_t mine = 0;
        for (int64_t r = begin; r < end; ++r) mine += capped(p.counts[r], cap);
        return block_scan(mine, shared, all);
    };
    int64_t total, kept;
    sum_under(INT_MAX, total);
    int64_t fits = total <= p.budget ? p.max_steps : 0, above = total <= p.budget ? fits : p.max_steps + int64_t(1);
    while (above - fits > 1) {
        const int64_t middle = (fits + above) / 2;
        sum_under(middle, kept);
        if (kept <= p.budget)
            fits = middle;
        else
            above = middle;
    }
    int64_t row = sum_under(fits, kept);
    for (int64_t r = begin; r < end; ++r) {
        p.offsets[r] = int32_t(row);
        row += capped(p.counts[r], fits);
    }
    if (threadIdx.x == 0) {
        p.offsets[p.rays] = int32_t(kept);
        p.info[0] = kept;
        p.info[1] = total - kept;
    }
}

}  // namespace

template <class T>
void march(const March<T>& p, const Exec& e) {
    const int64_t row = p.resolution / kBlockEdge, blocks = row * row * row;
    const unsigned ray_blocks = blocks_for(p.rays, kRayBlock);
    launch("march", e, classify_kernel<T>, blocks_for(blocks), kBlock, p, blocks);
    for (int axis = 0; axis < 3; ++axis)
        launch("march", e, spread_kernel<T>, blocks_for(blocks), kBlock, p, blocks, axis);
    launch("march", e, march_kernel<T>, ray_blocks, kRayBlock, p, false);
    launch("march", e, scan_kernel<T>, 1, kScanThreads, p);
    launch("march", e, march_kernel<T>, ray_blocks, kRayBlock, p, true);
    launch("march", e, clear_rows_kernel<T>, blocks_for(p.budget), kBlock, p);
}

DFN_INSTANTIATE_CUDA(march, March);

}  // namespace dfn::cuda
