// CUDA launchers of march, occupancy, shade, composite and adam: one thread per ray, row or cell around the bodies of
// the CPU; a warp per ray where samples are composited. Everything is deterministic; nothing allocates or waits.
#include <climits>

#include "composite/composite_cuda.cuh"

namespace dfn::cuda {
namespace {

constexpr unsigned kScanThreads = 1024;
constexpr unsigned kRayBlock = 64;     // rays differ in length: small blocks finish early
constexpr unsigned kWarpsBlock = 128;  // of a kernel with a warp per ray

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
    for (unsigned w = 0; w < kScanThreads / kWarp; ++w) before += w < warp ? shared[w] : 0, total += shared[w];
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
    for (int64_t r = begin; r < end; ++r) p.offsets[r] = int32_t(row), row += capped(p.counts[r], fits);
    if (threadIdx.x == 0) p.offsets[p.rays] = int32_t(kept), p.info[0] = kept, p.info[1] = total - kept;
}

template <class T>
__global__ void decay_kernel(Occupancy<T> p) {
    DFN_GRID_STRIDE(i, p.cells) decay_cell(p, i);
}

template <class T>
__global__ void raise_kernel(Occupancy<T> p) {
    DFN_GRID_STRIDE(i, p.listed) raise_cell(p, i);
}

template <class T>
__global__ void mark_kernel(Occupancy<T> p) {
    DFN_GRID_STRIDE(i, p.listed) mark_cell(p, i);
}

template <class T>
__global__ void partial_sum_kernel(Occupancy<T> p) {
    DFN_GRID_STRIDE(i, kSumChunks) partial_sum(p, i);
}

// One block.
template <class T>
__global__ void __launch_bounds__(kSumLanes) threshold_kernel(Occupancy<T> p) {
    __shared__ double lanes[kSumLanes];
    const int lane = int(threadIdx.x);
    lanes[lane] = lane_sum(p, lane);
    for (int reach = kSumLanes / 2; reach; reach /= 2) {
        __syncthreads();
        if (lane < reach) fold(lanes, lane, reach);
    }
    if (lane == 0) set_threshold(p, lanes[0]);
}

// One addition to the count per warp: they all go to one address.
template <class T>
__global__ void pack_kernel(Occupancy<T> p) {
    int set = 0;
    DFN_GRID_STRIDE(i, p.cells / 8) set += pack_byte(p, i);
    set = sum_over_warp(set);
    if (threadIdx.x % kWarp == 0 && set)
        atomicAdd(reinterpret_cast<unsigned long long*>(p.occupied), static_cast<unsigned long long>(set));
}

template <class T>
__global__ void floor_kernel(Occupancy<T> p) {
    if (!too_empty(p)) return;
    DFN_GRID_STRIDE(i, p.cells / 8) fill_byte(p, i);
}

template <class T>
__global__ void cell_points_kernel(CellPoints<T> p) {
    DFN_GRID_STRIDE(i, p.n) cell_point(p, i);
}

template <class T>
__global__ void shade_kernel(Shade<T> p) {
    const int64_t live = live_rows(p.n, p.count);
    DFN_GRID_STRIDE(i, p.n) i < live ? shade_sample(p, i) : clear_sample(p, i);
}

template <class T>
__global__ void shade_backward_kernel(ShadeBackward<T> p) {
    const int64_t live = live_rows(p.forward.n, p.forward.count);
    DFN_GRID_STRIDE(i, p.forward.n) i < live ? shade_sample_backward(p, i) : clear_sample_backward(p, i);
}

template <class T>
__global__ void clear_gradient_kernel(CompositeBackward<T> p) {
    const int64_t live = rows_in_use(p.forward);
    DFN_GRID_STRIDE(i, p.forward.n - live) clear_gradient(p, live + i);
}

template <class T>
__global__ void adam_kernel(Adam<T> p) {
    const AdamFactors<T> f = read_factors(p);
    int bad = 0;
    DFN_GRID_STRIDE(i, p.n) bad += adam_element(p, f, i);
    if (bad) atomicAdd(reinterpret_cast<unsigned long long*>(p.nonfinite), static_cast<unsigned long long>(bad));
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

template <class T>
void occupancy_update(const Occupancy<T>& p, const Exec& e) {
    launch("occupancy_update", e, decay_kernel<T>, blocks_for(p.cells), kBlock, p);
    launch("occupancy_update", e, raise_kernel<T>, blocks_for(p.listed), kBlock, p);
    launch("occupancy_update", e, mark_kernel<T>, blocks_for(p.listed), kBlock, p);
    launch("occupancy_update", e, partial_sum_kernel<T>, blocks_for(kSumChunks, 32), 32, p);
    launch("occupancy_update", e, threshold_kernel<T>, 1, kSumLanes, p);
    launch("occupancy_update", e, pack_kernel<T>, blocks_for(p.cells / 8), kBlock, p);
    launch("occupancy_update", e, floor_kernel<T>, blocks_for(p.cells / 8), kBlock, p);
}

template <class T>
void cell_points(const CellPoints<T>& p, const Exec& e) {
    launch("cell_points", e, cell_points_kernel<T>, blocks_for(p.n), kBlock, p);
}

template <class T>
void shade_forward(const Shade<T>& p, const Exec& e) {
    launch("shade", e, shade_kernel<T>, blocks_for(p.n), kBlock, p);
}

template <class T>
void shade_backward(const ShadeBackward<T>& p, const Exec& e) {
    launch("shade_backward", e, shade_backward_kernel<T>, blocks_for(p.forward.n), kBlock, p);
}

template <class T>
void composite_forward(const Composite<T>& p, const Exec& e) {
    launch("composite", e, composite_kernel, blocks_for(p.rays * kWarp, kWarpsBlock), kWarpsBlock, p);
}

template <class T>
void composite_backward(const CompositeBackward<T>& p, const Exec& e) {
    launch("composite_backward", e, composite_backward_kernel, blocks_for(p.forward.rays * kWarp, kWarpsBlock),
        kWarpsBlock, p);
    launch("composite_backward", e, clear_gradient_kernel<T>, blocks_for(p.forward.n), kBlock, p);
}

template <class T>
void adam(const Adam<T>& p, const Exec& e) {
    launch("adam_step", e, adam_kernel<T>, blocks_for(p.n), kBlock, p);
}

template void march<float>(const March<float>&, const Exec&);
template void occupancy_update<float>(const Occupancy<float>&, const Exec&);
template void cell_points<float>(const CellPoints<float>&, const Exec&);
template void shade_forward<float>(const Shade<float>&, const Exec&);
template void shade_backward<float>(const ShadeBackward<float>&, const Exec&);
template void composite_forward<float>(const Composite<float>&, const Exec&);
template void composite_backward<float>(const CompositeBackward<float>&, const Exec&);
template void adam<float>(const Adam<float>&, const Exec&);

}  // namespace dfn::cuda
