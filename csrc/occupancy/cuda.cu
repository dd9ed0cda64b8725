// Occupancy on CUDA: one thread per cell around the bodies of occupancy.h. Everything is deterministic.
#include "base/cuda_util.cuh"
#include "occupancy/occupancy.h"

namespace dfn::cuda {
namespace {

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

}  // namespace

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

DFN_INSTANTIATE_CUDA(occupancy_update, Occupancy);
DFN_INSTANTIATE_CUDA(cell_points, CellPoints);

}  // namespace dfn::cuda
